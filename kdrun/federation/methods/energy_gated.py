"""FedeKD (arXiv 2605.05553): proxies travel, and teach private networks as far as these agree with them.

The paper's exact equations could not be read; they are put together from its building blocks, and what was inferred is an
option or named below.
"""

from __future__ import annotations

from torch import Tensor

from kdrun.federation import energy
from kdrun.federation.client import Client
from kdrun.federation.loop import label_loss, transfer
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.problems import UserError

SEMANTICS = 1


class EnergyGated(Method):
    """A client's round: the private network learns from labels and from the global proxy,

        L_task(f) + w_b mean[ gate(E(x)) T^2 KL(softmax(g / T) || softmax(f / T)) ]

    and the proxy learns from labels and from the private network, L_task(g) + w_f mean[ T^2 KL(softmax(f / T) || softmax(g / T)) ];
    for numbers squared differences stand for the divergences. Then the proxy travels.
    """

    TRAVELS = "proxy"

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
