"""Mutual distillation that is weaker the worse both networks are: FedKD."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from kdrun.federation.client import Client
from kdrun.federation.loop import Loop
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.federation.methods.losses import named
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError

ROLES = {"private": "proxy", "proxy": "private"}
"""Who learns -> from whom."""

SEMANTICS = 1


class FedKD(Method):
    """Wu et al. 2021 (arXiv 2108.13323): the private network (mentor) and the proxy (mentee) learn in the same step,

        L_f = L_task(f) + KL(g || f) / (L_task(f) + L_task(g)),   L_g = L_task(g) + KL(f || g) / (L_task(f) + L_task(g)),

    each with the other's outputs and the divisor as constants. The proxy travels. What the paper adds is left out: the losses
    on hidden states, which networks of different kinds do not share, and the compression of gradients.
    A step trains both networks, so that a round has as many passes as the longer of the two directions.
    """

    TRAVELS = "proxy"

    def objectives(self):
        labels = {role: self.losses.objective(role) for role in ROLES}
        teaching = {role: Objective(named(self.losses.teaching, f"to_{role}")) for role in ROLES}
        for objective in (*labels.values(), *teaching.values()):
            for view in objective.views:
                raise UserError(f"objective: view={view}: method=fedkd shows each sample to both networks in one view")
        return (Mutual(labels, teaching),)

    def work(self, client: Client, broadcast: Broadcast):
        networks = {"private": client.private, "proxy": client.receive(broadcast)}
        epochs = max(self.options.backward_epochs, self.options.forward_epochs)
        (objective,) = self.objectives()
        values = client.loop.train(
            networks, objective, client.train, epochs, "mutual", broadcast.round, task=Both(client.loop)
        )
        return client.send(), values


@dataclass
class Mutual:
    """The sum of both losses; to a step it is an objective.

    labels, teaching  by role of the network that learns
    """

    labels: dict[str, Objective]
    teaching: dict[str, Objective]
    views: ClassVar[dict[str, str]] = {}  # both networks see each sample in one view

    @property
    def active(self):
        return tuple(term for part in (self.labels, self.teaching) for one in part.values() for term in one.active)

    def __call__(self, tensors: dict[str, Any], count: float) -> tuple[Tensor, dict[str, Tensor]]:
        totals, raw = [], {}
        for role, objective in self.labels.items():
            total, values = objective(tensors[role], count)
            totals.append(total)
            raw |= values
        divisor = sum(totals).detach()
        for role, objective in self.teaching.items():
            total, values = objective(tensors[role], count)
            totals.append(total / divisor)
            raw |= {name: value / divisor for name, value in values.items()}
        return sum(totals), raw


class Both:
    """Two networks on the same batch: what each says, beside the other's outputs as constants."""

    def __init__(self, loop: Loop):
        self.loop = loop

    def predict(self, networks: nn.ModuleDict, inputs: Any) -> dict[str, Any]:
        return {role: self.loop.predict(network, inputs) for role, network in networks.items()}

    def tensors(self, batch, student, teacher):
        constants = {role: replace(said, logits=said.logits.detach()) for role, said in student.items()}
        return {role: self.loop.tensors(batch, student[role], constants[other]) for role, other in ROLES.items()}
