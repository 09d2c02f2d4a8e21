"""Divergences between two distributions over classes, with their gradients written out; used by the terms, no term itself.

All take log-probabilities of the student (log_q) and the teacher (log_p) and a spare array, each [..., C], and overwrite
all three: over a vocabulary every further array counts. They give the value [...] in nats and, if asked, the slope
[..., C], its derivative by the student's logits divided by the temperature. Equal distributions give exactly 0 in both.

A class that a network excludes (logit -inf) has the probability 0, and 0 * log 0 = 0: nothing is added by a class that both
exclude, or the one over whose probabilities the sum goes. Where only the other excludes it, the Kullback-Leibler divergence is
infinite. `careful` computes this; without it such classes may give NaN. Logits of NaN or +inf, and rows of -inf alone, are no
distribution and give NaN, which ends a run as any loss that is not finite does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kdrun.objectives.probabilities import check_temperature
from kdrun.objectives.wide import wide_pair

KINDS = ("forward", "reverse", "jsd")
FAR = 80.0
"""Differences of log-probabilities beyond this are read as this: the lesser probability is then below 1e-34."""

Logs = torch.Tensor
Outcome = tuple[torch.Tensor, torch.Tensor | None]


def forward(
    log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, share: float = 1.0, careful: bool = False
) -> Outcome:
    """KL(p || q) = sum p * (log p - log q); slope q - share * p."""
    p = torch.exp(log_p, out=spare)
    value = _weighted(log_p.sub_(log_q), p, careful).sum(-1)
    return value, log_q.exp_().sub_(p, alpha=share) if slope else None


def reverse(log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, careful: bool = False) -> Outcome:
    """KL(q || p) = sum q * (log q - log p); slope q * (log q - log p - value)."""
    ratio = torch.sub(log_q, log_p, out=spare)
    q = log_q.exp_()
    value = _weighted(ratio, q, careful).sum(-1)
    return value, ratio.addcmul_(q, value.unsqueeze(-1), value=-1) if slope else None


def _weighted(values: torch.Tensor, by: torch.Tensor, careful: bool) -> torch.Tensor:
    """values * by, in place; if `careful`, 0 where `by` is 0."""
    return (values.masked_fill_(by == 0, 0.0) if careful else values).mul_(by)


def jensen_shannon(
    log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, beta: float = 0.5, careful: bool = False
) -> Outcome:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; slope (1 - beta) q * (log q / m - KL(q || m)).

    log q / m = -log(1 + beta * (p / q - 1)), and log p / m is that and log p / q: exact for distributions that are close,
    where the logarithm of m itself would be rounded by more than they differ.
    """
    p = torch.exp(log_p, out=spare)
    apart = log_p.sub_(log_q)
    apart = (apart.masked_fill_(p == 0, -FAR) if careful else apart).clamp_(-FAR, FAR)
    of_q = torch.expm1(apart).mul_(beta).log1p_().neg_()
    of_p = apart.add_(of_q).mul_(p).sum(-1)
    q = log_q.exp_()
    value = of_q.mul_(q).sum(-1)
    by_logits = of_q.addcmul_(q, value.unsqueeze(-1), value=-1).mul_(1 - beta) if slope else None
    return beta * of_p + (1 - beta) * value, by_logits


def divergence(
    kind: str, log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, beta: float = 0.5, careful: bool = False
) -> Outcome:
    """The one named `kind`."""
    if kind == "jsd":
        return jensen_shannon(log_q, log_p, spare, slope, beta, careful)
    return (forward if kind == "forward" else reverse)(log_q, log_p, spare, slope, careful=careful)


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

        # Excluded classes are rare and looked for only where they show. For this a GPU has to wait, which is worth it where
        # a teacher may make the value infinite.
        waits = kind == "reverse" or not student.is_cuda
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
        this, other = ("student", "teacher") if kind == "reverse" else ("teacher", "student")
        raise FloatingPointError(
            f"the divergence is infinite at {count} of {values.numel()} positions: the {other} gives no probability (a logit of "
            f"-inf) to a class that the {this} does not exclude; the Jensen-Shannon divergence (objective jsd) stays finite"
        )


def check(kind: str, temperature: float, beta: float) -> None:
    """Raises ValueError, with what is allowed."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_temperature(temperature)
    if not 0 < beta < 1:
        raise ValueError(
            f"beta must lie between 0 and 1, got {beta}: at the ends the divergence is 0 whatever the networks say; "
            "its limits divided by beta and by 1 - beta are the forward and the reverse Kullback-Leibler divergence"
        )
