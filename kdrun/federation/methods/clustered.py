"""A larger network of the server learns from each cluster of clients and teaches its members: COSMOS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.federation.loop import Loop, Stored, export, load
from kdrun.federation.methods.clusters import Clusters, probabilities
from kdrun.federation.methods.losses import soft_targets
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError

SEMANTICS = 2


class Clustered(Clusters):
    """Rachmut et al. 2026 (arXiv 2605.11165): a network h_k of the server for each cluster k, kept from round to round, learns

        L(h) = KL(p^(T) || h(x)) + smooth / C ||h(x) - h(x + smooth_noise n)||^2,   n ~ N(0, 1),   p^(T) ~ p^(1/T)

    with class probabilities h(x), from the combined predictions p of the cluster's clients on public samples (server_epochs), and clients
    learn by the same loss from h_k. Round 0 is the paper's first phase without its last step, which is the first step of round
    1: there clients are taught by h_k once, not twice in succession. All networks begin as the same one; noise is in units of the
    normalised input and is not cut off. In the published code the smoothness term has no gradient: smooth_grad=false leaves it out.
    """

    SERVER = True

    def objectives(self):
        return (*super().objectives(), self._distance("server"))

    @property
    def digest(self):
        return self._distance("digest")

    def _distance(self, name: str) -> Objective:
        terms = [Term(name, 1.0, soft_targets, ("student_logits", "teacher_logits"))]
        if self._smooths:
            terms.append(
                Term(f"{name}_smooth", float(self.options.smooth), roughness, ("student_logits", "noisy_logits"))
            )
        return Objective(tuple(terms))

    @property
    def _smooths(self) -> bool:
        return self.options.smooth > 0 and self.options.smooth_grad

    def initial(self, resources):
        self._start = export(resources.model)
        return super().initial(resources)

    def learn(self, client, target, round):
        how = (self.digest, self.options.forward_epochs, "digest", round)
        return self._learn(client.loop, {"private": client.private}, client.public, target, how)

    def _learn(self, loop: Loop, networks: Any, public: Any, target: Tensor, how: Any) -> dict[str, float]:
        """One training on public samples. target: logits [U, C]; how: (objective, epochs, purpose, round)."""
        objective, epochs, purpose, round = how
        teacher = Stored(target.to(loop.device) / self.options.temperature)
        (role,) = networks
        task = Noisy(loop, role, self.options.smooth_noise) if self._smooths else None
        return loop.train(networks, objective, public, epochs, purpose, round, teacher=teacher, task=task)

    def taught(self, target, before, cluster, round, resources):
        network, loop, public = resources.model, resources.loop, resources.public
        weights = {name.removeprefix("server/"): array for name, array in before.items() if name != "taught"}
        start = weights or self._start
        load(network, start)
        how = (self._distance("server"), self.options.server_epochs, f"server-{cluster}", round)
        try:
            self._learn(loop, {"server": network}, public, torch.from_numpy(target).log(), how)
        except (
            FloatingPointError
        ):  # it stays as it was; before it has learned anything, clients are taught by their own predictions
            load(network, start)
            if not weights:
                return {"taught": target}, True
            diverged = True
        else:
            diverged = False
        kept = {f"server/{name}": array for name, array in export(network).items()}
        return {"taught": probabilities(loop, "server", network, public), **kept}, diverged


def roughness(student_logits: Tensor, noisy_logits: Tensor) -> Tensor:
    """[B]: mean over classes of the squared difference of class probabilities, of logits [B, C] each."""
    return (torch.softmax(student_logits, -1) - torch.softmax(noisy_logits, -1)).square().mean(-1)


roughness.starts_at_zero = True  # of a network that says the same whatever it is given


class Noisy:
    """A loop as the task of one network, which is also asked for its outputs on inputs with noise on them."""

    def __init__(self, loop: Loop, role: str, noise: float):
        self.loop, self.role, self.noise = loop, role, noise

    def predict(self, network: nn.Module, inputs: Any) -> Any:
        if not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
            raise UserError("smooth: noise is for inputs of numbers, as images are", "give smooth=0")
        said = self.loop.predict(network, inputs)
        noisy = self.loop.predict(network, inputs + self.noise * torch.randn_like(inputs))
        self.loop.count(f"trained/{self.role}", len(inputs))
        return replace(said, features={**said.features, "noisy": noisy.logits})

    def tensors(self, batch, student, teacher):
        noisy = student.features["noisy"]
        return {**self.loop.tensors(batch, student, teacher), "noisy_logits": noisy}
