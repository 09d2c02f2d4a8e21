"""The no-op detector: distillation that silently does nothing is the worst failure, so the first step is looked at."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.objectives.terms import Objective


class NoEffect(RuntimeError):
    """A configured term, or a trainable parameter, has no part in training."""


def gradient_norms(value: Tensor, parameters: Sequence[nn.Parameter], scale: float = 1.0) -> list[float | None]:
    """The norm of the derivative of a scalar by each parameter, None by those that it does not depend on.

    scale: of the loss, as fp16 needs it: small derivatives would be 0 without. One that is too large is lowered, as it is in
    training, until the derivatives are finite.
    """
    while True:
        scaled = value if scale == 1 else value * scale
        found = torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
        norms = [None if gradient is None else float(gradient.norm()) / scale for gradient in found]
        if scale <= 1 or math.isfinite(joined(norms)):
            return norms
        scale = max(scale / 16, 1.0)


def joined(norms: Sequence[float | None]) -> float:
    """The norm of all together."""
    return sum(norm * norm for norm in norms if norm is not None) ** 0.5


def check_first_step(
    objective: Objective,
    raw: dict[str, Tensor],
    student: nn.Module,
    seen: Collection[str] = (),
    alike: bool = False,
    beside: Mapping[str, nn.Module] | None = None,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Value and gradient norm of every term on the first batch that has it, before anything is changed by that batch.

    raw: terms of this batch. seen: terms that were looked at already. alike: the student starts as a copy of its teacher, so
    that a term that compares them may still do nothing, as may one whose function says `starts_at_zero`; it is then looked at on
    the next batch. beside: what trains along. scale: see gradient_norms.
    Returns {term: {"value": float, "gradient": float}} of the others. The value may be 0: the gradient is what trains.
    Raises NoEffect when a term or its gradient is not finite, when its gradient is zero for all parameters of the student,
    and when a trainable parameter is reached by no term at all, unless it says `conditional`: that it is used for some samples only.
    """
    named = [(name, parameter) for name, parameter in student.named_parameters() if parameter.requires_grad]
    if not named:
        raise NoEffect("the student has no trainable parameters")
    own = len(named)
    for part, module in (beside or {}).items():
        named += [(f"{part}.{name}", parameter) for name, parameter in module.named_parameters()]
    reached = [False] * len(named)
    report: dict[str, Any] = {}
    active = [term for term in objective.active if term.name in raw and term.name not in seen]
    for term in active:
        value = float(raw[term.name].detach()) + 0.0  # -0 is 0
        if not math.isfinite(value):
            raise NoEffect(f"the {term.name} term is {value} on the first batch")
        if not raw[term.name].requires_grad:
            raise NoEffect(
                f"the {term.name} term is {value:.6g} and does not depend on any trainable parameter of the student"
            )
        norms = gradient_norms(raw[term.name], [parameter for _, parameter in named], scale)
        norm, of_student = joined(norms), joined(norms[:own])
        waits = getattr(term.function, "starts_at_zero", False) or (alike and term.needs_teacher)
        if value == 0.0 and norm == 0.0 and waits:
            continue
        if not norm < math.inf or of_student == 0.0:
            beside = f", that of the {' and '.join(beside)} alone {norm:.6g}" if norm > of_student else ""
            raise NoEffect(
                f"the {term.name} term is {value:.6g} on the first batch, and its gradient by the student's parameters has "
                f"the norm {of_student:.6g}{beside}: it would {'do nothing' if of_student == 0.0 else 'end the run'}"
            )
        reached = [was or one is not None for was, one in zip(reached, norms, strict=True)]
        report[term.name] = {"value": value, "gradient": norm}
    if len(report) < len(objective.active):  # what this batch does not reach, a term that it lacks may
        return report
    pairs = zip(named, reached, strict=True)
    unreached = [name for (name, one), was in pairs if not was and not getattr(one, "conditional", False)]
    if unreached:
        shown = ", ".join(unreached[:3]) + (" ..." if len(unreached) > 3 else "")
        raise NoEffect(f"{len(unreached)} trainable parameters are reached by no term of the objective: {shown}")
    return report
