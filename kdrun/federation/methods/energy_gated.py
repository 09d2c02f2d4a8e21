"""FedeKD (arXiv 2605.05553): proxies travel, and teach private networks as far as these agree with them.

The paper's exact equations could not be read; they are put together from its building blocks, and what was inferred is an
option or named below.
"""

from __future__ import annotations

from torch import Tensor

from kdrun.federation import energy
from kdrun.federation.client import Client
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.federation.methods.losses import named, scaled
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError

SEMANTICS = 1


class EnergyGatedMethod(Method):
    """A client's round: the private network learns from labels and from the global proxy,

        L_task(f) + w_b mean[ gate(E(x)) T^2 KL(softmax(g / T) || softmax(f / T)) ]

    and the proxy learns from labels and from the private network, L_task(g) + w_f mean[ T^2 KL(softmax(f / T) || softmax(g / T)) ];
    for numbers squared differences stand for the divergences. Then the proxy travels.
    """

    TRAVELS = "proxy"

    def objectives(self):
        return (self._private(self._teaches("backward")), self._proxy)

    def _private(self, taught: bool) -> Objective:
        labels = self.losses.objective("private").terms
        gated = named(self.losses.teaching, "gated", self.options.backward_weight) if taught else ()
        return Objective((*labels, *(scaled(term, "gate") for term in gated)))

    @property
    def _proxy(self) -> Objective:
        taught = "forward" if self._teaches("forward") else None
        return self.losses.objective("proxy", taught, self.options.forward_weight)

    def _teaches(self, direction: str) -> bool:
        weight = {"backward": self.options.backward_weight, "forward": self.options.forward_weight}[direction]
        return self.options.directions in ("both", direction) and weight > 0

    def suits(self, regression: bool, width: int | None = None) -> None:
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
        options, loop = self.options, client.loop
        teacher = task = None
        if self._teaches("backward") and round > 0:
            teacher, task = loop.outputs("proxy", proxy, client.train), Gated(self, client)
        elif round == 0 and options.first_round == "skip":
            return {}
        values = loop.train(
            {"private": client.private},
            self._private(teacher is not None),
            client.train,
            options.backward_epochs,
            "private",
            round,
            teacher=teacher,
            task=task,
        )
        return values | (client.count_gates(task.gates, task.positions) if task is not None and task.gates else {})

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
        teacher = loop.outputs("private", client.private, client.train) if self._teaches("forward") else None
        return loop.train(
            {"proxy": proxy}, self._proxy, client.train, options.forward_epochs, "proxy", round, teacher=teacher
        )


class Gated:
    """A client's loop as the task of its private network: batches have a `gate` beside the proxy's outputs.

    gates, positions  of all batches so far
    """

    def __init__(self, method: EnergyGatedMethod, client: Client):
        self.method, self.client, self.predict = method, client, client.loop.predict
        self.gates: list[Tensor] = []
        self.positions: list[Tensor] = []

    def tensors(self, batch, student, teacher):
        logits = student.logits if self.method.options.gate_grad else student.logits.detach()
        gate = self.method.trust(logits, teacher.logits, self.client)
        self.gates.append(gate.detach())
        self.positions.append(batch["positions"])
        return {**self.client.loop.tensors(batch, student, teacher), "gate": gate}
