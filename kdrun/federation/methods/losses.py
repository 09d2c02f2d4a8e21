"""Terms that methods put their objectives together from: what labels say, and what another network says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdrun.objectives.ce import ce
from kdrun.objectives.mse import mse
from kdrun.objectives.mse_kd import mse_kd
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective, build_objective
from kdrun.problems import UserError
from kdrun.term_weights import WeightSchedule

FEATURES = ("student_features", "teacher_features")


@dataclass(frozen=True)
class Losses:
    """labels     terms that need no other network
    teaching   terms that compare a network with frozen outputs
    outputs    what the task calls what networks say: "logits" of classes, "outputs" of numbers
    """

    labels: tuple[Term, ...]
    teaching: tuple[Term, ...]
    outputs: str = "logits"

    @classmethod
    def of(cls, regression: bool, temperature: float = 1.0) -> Losses:
        """Cross-entropy and T^2 KL(teacher || student) for classes, squared errors for numbers."""
        what = "outputs" if regression else "logits"
        both, options = (f"student_{what}", f"teacher_{what}"), {} if regression else {"temperature": temperature}
        labels = Term("labels", 1.0, mse if regression else ce, (both[0], "targets"))
        return cls((labels,), (Term("", 1.0, mse_kd if regression else soft_targets, both, options=options),), what)

    @classmethod
    def of_config(cls, node: Mapping[str, Any], regression: bool) -> Losses:
        """The terms of an `objective` of the config. Raises UserError where it cannot be one of clients."""
        objective = build_objective(node)
        labels = tuple(term for term in objective.active if not term.needs_teacher)
        if not labels:
            raise UserError("objective: clients learn from labels at least; give ce a weight above 0")
        for term in objective.active:
            if term.pairs is not None or objective.wanted.intersection(FEATURES) & {*term.wants, *term.may_want}:
                raise UserError(
                    f"objective.{term.name} compares features: networks of clients are of different makes, and keep no adaptor",
                    "give terms of logits: ce, kd, jsd, kl_reverse",
                )
            if isinstance(term.function, type) or isinstance(term.weight, WeightSchedule):
                raise UserError(
                    f"objective.{term.name}: terms of clients have no state and a constant weight",
                    "give functions, and numbers as weights",
                )
        teaching = tuple(term for term in objective.active if term.needs_teacher)
        return cls(labels, teaching, "outputs" if regression else "logits")

    def objective(self, role: str, taught: str | None = None, weight: float = 1.0) -> Objective:
        """The objective of one network. taught: prefix of the terms that teach it, times `weight`; None: labels alone."""
        terms = named(self.labels, role)
        return Objective(terms if taught is None else (*terms, *named(self.teaching, taught, weight)))


def soft_targets(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """[B]: T^2 KL(teacher || student) of logits [B, C], as objectives.kd. A class that the teacher excludes (logit -inf) adds
    nothing.

    Without kd's own gradient, which is for vocabularies: a step of a small network is a tenth faster.
    """
    both = (student_logits, teacher_logits)
    log_q, log_p = (torch.log_softmax(x if temperature == 1 else x / temperature, -1) for x in both)
    p = log_p.exp()
    distance = (p * (log_p - log_q)).sum(-1)
    if distance.is_cuda or not bool(distance.isfinite().all()):
        distance = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)
    return distance * temperature**2


def named(terms: Iterable[Term], prefix: str, weight: float = 1.0) -> tuple[Term, ...]:
    """The terms as `prefix_name`, with their weights times `weight`."""
    return tuple(
        replace(term, name=f"{prefix}_{term.name}" if term.name else prefix, weight=term.weight * weight)
        for term in terms
    )


def scaled(term: Term, by: str) -> Term:
    """The term with each position times a tensor of this name."""

    def function(**tensors: Any) -> Tensor:
        return tensors.pop(by) * term.function(**tensors)

    return replace(term, function=like(function, term.function), wants=(*term.wants, by))


def like(function: Callable[..., Tensor], original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, which is over what the original is over."""
    for name in ("pointwise", "over"):
        if hasattr(original, name):
            setattr(function, name, getattr(original, name))
    return function
