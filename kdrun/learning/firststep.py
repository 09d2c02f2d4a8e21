"""The no-op detector: distillation that silently does nothing is the worst failure, so the first step is looked at."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.objectives.terms import Objective


class NoEffect(RuntimeError):
    """A configured term, or a trainable parameter, has no part in training."""


def check_first_step(
    objective: Objective, raw: dict[str, Tensor], student: nn.Module, seen: Collection[str] = (), alike: bool = False
) -> dict[str, Any]:
    """Value and gradient norm of every term on the first batch that has it, before anything is changed by that batch.

    raw: terms of this batch. seen: terms that were looked at already. alike: the student starts as a copy of its teacher, so
    that a term that compares them may still be 0; it is then looked at on the next batch.
    Returns {term: {"value": float, "gradient": float}} of the others.
    Raises NoEffect when a term is not finite, is zero, or reaches none of the parameters, and when a trainable
    parameter is reached by no term at all.
    """
    named = [(name, parameter) for name, parameter in student.named_parameters() if parameter.requires_grad]
    if not named:
        raise NoEffect("the student has no trainable parameters")
    reached = [False] * len(named)
    report: dict[str, Any] = {}
    active = [term for term in objective.active if term.name in raw and term.name not in seen]
    for term in active:
        value = raw[term.name]
        if not bool(torch.isfinite(value)):
            raise NoEffect(f"the {term.name} term is {float(value.detach())} on the first batch")
        if float(value.detach()) == 0.0 and alike and term.needs_teacher:
            continue
        if float(value.detach()) == 0.0:
            why = " (teacher and student give identical outputs)" if term.needs_teacher else ""
            raise NoEffect(f"the {term.name} term is exactly 0 on the first batch{why}: it would do nothing")
        if not value.requires_grad:
            raise NoEffect(f"the {term.name} term does not depend on any trainable parameter of the student")
        gradients = torch.autograd.grad(
            value, [parameter for _, parameter in named], retain_graph=True, allow_unused=True
        )
        norms = [0.0 if gradient is None else float(gradient.norm()) for gradient in gradients]
        norm = sum(n * n for n in norms) ** 0.5
        if norm == 0.0 or norm != norm or norm == float("inf"):
            raise NoEffect(f"the gradient of the {term.name} term has norm {norm} on the first batch")
        reached = [was or gradient is not None for was, gradient in zip(reached, gradients, strict=True)]
        report[term.name] = {"value": float(value.detach()), "gradient": norm}
    if len(report) < len(objective.active):  # what this batch does not reach, a term that it lacks may
        return report
    unreached = [name for (name, _), was in zip(named, reached, strict=True) if not was]
    if unreached:
        shown = ", ".join(unreached[:3]) + (" ..." if len(unreached) > 3 else "")
        raise NoEffect(f"{len(unreached)} trainable parameters are reached by no term of the objective: {shown}")
    return report
