"""Divergences of two sets of logits, each one operation with its own gradient; used by the terms, no term itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kdrun.objectives import divergence_forms
from kdrun.objectives.divergence_forms import Logs, Outcome
from kdrun.objectives.probabilities import check_temperature
from kdrun.objectives.wide import wide_pair

KINDS: Mapping[str, str | None] = {
    "forward": None,
    "reverse": None,
    "jsd": "beta",
    "skewed": "skew",
    "skewed_reverse": "skew",
    "total_variation": None,
    "adaptive": "head",
}
"""Kind of divergence, a function of divergence_forms -> what it calls its number between 0 and 1, here `beta`; None where it has none."""
MAY_BE_INFINITE = ("reverse", "adaptive")
"""Kinds that are infinite where the teacher excludes a class and the student does not."""


def divergence(
    kind: str, log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, beta: float = 0.5, careful: bool = False
) -> Outcome:
    """The one named `kind`."""
    number = () if KINDS[kind] is None else (beta,)
    return getattr(divergence_forms, kind)(log_q, log_p, spare, slope, *number, careful=careful)


class Divergence(torch.autograd.Function):
    """T^2 times the divergence of two sets of logits [..., C] at temperature T, one value per position.

    Differentiating the value step by step costs twice the time and memory, and multiplies q by a sum of p that is 1 only up
    to rounding: a student equal to its teacher would then be pushed about by rounding errors.
    """

    @staticmethod
    def forward(
        ctx: Any, student: torch.Tensor, teacher: torch.Tensor, kind: str, temperature: float, beta: float
    ) -> torch.Tensor:
        def computed(careful: bool) -> Outcome:
            given = (x if temperature == 1 else x / temperature for x in (student, teacher))
            log_q, log_p = (torch.log_softmax(logits, -1) for logits in given)
            return divergence(kind, log_q, log_p, torch.empty_like(log_p), beta=beta, careful=careful)

        # Excluded classes are rare and looked for only where they show. For this a GPU would have to wait: there they are always looked for,
        # and a value that is infinite shows where losses are written down.
        waits = student.device.type == "cpu"
        value, slope = computed(careful=not waits)
        if waits and not bool(value.isfinite().all()):
            value, slope = computed(careful=True)
            refuse_infinite(value, kind)
        ctx.save_for_backward(slope)
        ctx.temperature = temperature
        return value * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * (gradient * ctx.temperature).unsqueeze(-1), None, None, None, None


def of_logits(
    student: torch.Tensor, teacher: torch.Tensor, kind: str, temperature: float, beta: float = 0.5
) -> torch.Tensor:
    """Divergence of logits [..., C] in float32 or wider; raises ValueError for shapes or settings that do not fit."""
    check(kind, temperature, beta)
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"the student has {student.shape[-1]} classes and the teacher {teacher.shape[-1]}: "
            "soft targets need the same classes in the same order"
        )
    return Divergence.apply(*wide_pair(student, teacher, "logits"), kind, temperature, beta)


def refuse_infinite(values: torch.Tensor, kind: str) -> None:
    """Raises FloatingPointError where one of the values is infinite."""
    if count := int((values == torch.inf).sum()):
        this, other = {
            "reverse": ("student", "the teacher"),
            "adaptive": ("other", "one network"),
        }.get(kind, ("teacher", "the student"))
        raise FloatingPointError(
            f"the divergence is infinite at {count} of {values.numel()} positions: {other} gives no probability (a logit of "
            f"-inf) to a class that the {this} does not exclude; the Jensen-Shannon divergence (objective jsd) stays finite"
        )


def check(kind: str, temperature: float, beta: float) -> None:
    """Raises ValueError, with what is allowed."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_temperature(temperature)
    if not 0 < beta < 1:
        ends = {
            "jsd": ": at the ends the divergence is 0 whatever the networks say; its limits divided by beta and by 1 - beta are the "
            "forward and the reverse Kullback-Leibler divergence",
            "skewed": ": at 0 it is kd, at 1 it is 0 whatever the networks say",
            "skewed_reverse": ": at 0 it is kl_reverse, at 1 it is 0 whatever the networks say",
        }
        raise ValueError(f"{KINDS[kind] or 'beta'} must lie between 0 and 1, got {beta}{ends.get(kind, '')}")
