"""FedeKD (arXiv 2605.05553): proxies travel, and teach private networks as far as these agree with them.

The paper's exact equations could not be read; they are put together from its building blocks, and what was inferred is an
option or named below.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdrun.federation import energy
from kdrun.federation.client import Client
from kdrun.federation.loop import label_loss, transfer
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method, Options, at_least_zero, one_of
from kdrun.problems import UserError

DIRECTIONS = ("both", "forward", "backward")
ORDERS = ("backward_first", "forward_first")
FIRST = ("labels", "skip")


@dataclass(frozen=True)
class GatedOptions(Options):
    """directions  forward: private networks teach proxies; backward: the global proxy teaches private networks. A network
                that is not taught learns from labels alone, in as many steps
    order       which step comes first in a round (inferred)
    first_round the global proxy has learned nothing before round 0, so nothing is taught backward in it. labels: private
                networks learn from labels alone; skip: they do not learn at all, and teach as they are (both inferred)
    energy, energy_norm, gate, beta, temperature: see energy.py; energy=auto is disagreement for classes, squared_error for
                numbers. The temperature is that of the distillation too
    statistics  of energies, by which they are normalised: of the batch, or running (for batches below 8)
    gate_grad   whether gradients flow through the gate into the private network (inferred: no)
    backward_weight, forward_weight   of the terms that teach, beside labels with 1 (inferred)
    """

    directions: str = "both"
    order: str = "backward_first"
    first_round: str = "labels"
    energy: str = "auto"
    energy_norm: str = "entropy"
    gate: str = "logistic"
    beta: float = 1.0
    temperature: float = 2.0
    statistics: str = "batch"
    gate_grad: bool = False
    backward_weight: float = 1.0
    forward_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("directions", self.directions, DIRECTIONS)
        one_of("order", self.order, ORDERS)
        one_of("first_round", self.first_round, FIRST)
        one_of("energy", self.energy, ("auto", *energy.ENERGIES))
        one_of("energy_norm", self.energy_norm, energy.NORMS)
        one_of("gate", self.gate, energy.GATES)
        one_of("statistics", self.statistics, energy.STATISTICS)
        for name in ("beta", "backward_weight", "forward_weight"):
            at_least_zero(name, getattr(self, name))
        at_least_zero("temperature", self.temperature, above=True)
        for name in ("backward_epochs", "forward_epochs"):
            if getattr(self, name) == 0:
                raise UserError(
                    f"{name}=0: both networks must learn; directions=forward or backward turns one teaching off"
                )


class EnergyGated(Method):
    """A client's round: the private network learns from labels and from the global proxy,

        L_task(f) + w_b mean[ gate(E(x)) T^2 KL(softmax(g / T) || softmax(f / T)) ]

    and the proxy learns from labels and from the private network, L_task(g) + w_f mean[ T^2 KL(softmax(f / T) || softmax(g / T)) ];
    for numbers squared differences stand for the divergences. Then the proxy travels.
    """

    TRAVELS = "proxy"
    Options = GatedOptions

    @property
    def terms(self):
        both = {"gated": self._teaches("backward"), "forward": self._teaches("forward")}
        return ("private_labels", "proxy_labels", *(name for name, used in both.items() if used))

    def _teaches(self, direction: str) -> bool:
        weight = {"backward": self.options.backward_weight, "forward": self.options.forward_weight}[direction]
        return self.options.directions in ("both", direction) and weight > 0

    def suits(self, regression: bool) -> None:
        if regression and self.options.energy not in ("auto", "squared_error"):
            raise UserError(
                f"energy={self.options.energy} compares classes; targets are numbers here", "use energy=squared_error"
            )

    def work(self, client: Client, broadcast: Broadcast):
        proxy, round = client.receive(broadcast), broadcast.round
        if self.options.order == "backward_first":
            found = self._backward(client, proxy, round) | self._forward(client, proxy, round)
            return client.send(), found
        found = self._forward(client, proxy, round)
        sent = client.send()
        # What teaches is the proxy that the server sent, not the client's own.
        return sent, found | self._backward(client, client.receive(broadcast), round)

    def _backward(self, client: Client, proxy, round: int) -> dict[str, float]:
        options, private, loop = self.options, client.private, client.loop
        taught = None
        if self._teaches("backward") and round > 0:
            taught = loop.outputs("proxy", proxy, client.train)
        elif round == 0 and options.first_round == "skip":
            return {}
        gates: list[Tensor] = []
        positions: list[Tensor] = []

        def terms(batch):
            logits = loop.logits(private, batch["inputs"])
            parts = [("private_labels", 1.0, label_loss(logits, batch["targets"]))]
            if taught is not None:
                proxy_logits = taught(batch)
                trust = self.trust(logits if options.gate_grad else logits.detach(), proxy_logits, client)
                distance = transfer(logits, proxy_logits, batch["targets"], options.temperature)
                parts.append(("gated", options.backward_weight, (trust * distance).mean()))
                gates.append(trust.detach())
                positions.append(batch["positions"])
            return parts

        found = loop.train({"private": private}, client.train, options.backward_epochs, "private", round, terms)
        return found | (client.count_gates(gates, positions) if gates else {})

    def trust(self, private: Tensor, proxy: Tensor, client: Client) -> Tensor:
        """[B]: how far the proxy may teach on each sample of a batch."""
        options = self.options
        kind = options.energy
        if kind == "auto":
            kind = "squared_error" if client.train.targets.is_floating_point() else "disagreement"
        if kind == "squared_error":
            values = energy.squared_error(private, proxy)
        else:
            values = energy.energy(private, proxy, kind, options.energy_norm, options.temperature)
        statistics = client.running.update(values) if options.statistics == "running" else None
        return energy.gate(values, options.gate, options.beta, statistics)

    def _forward(self, client: Client, proxy, round: int) -> dict[str, float]:
        options, loop = self.options, client.loop
        taught = loop.outputs("private", client.private, client.train) if self._teaches("forward") else None

        def terms(batch):
            logits = loop.logits(proxy, batch["inputs"])
            parts = [("proxy_labels", 1.0, label_loss(logits, batch["targets"]))]
            if taught is not None:
                distance = transfer(logits, taught(batch), batch["targets"], options.temperature)
                parts.append(("forward", options.forward_weight, distance.mean()))
            return parts

        return loop.train({"proxy": proxy}, client.train, options.forward_epochs, "proxy", round, terms)
