"""The gradient step: of the learner in a Lightning trainer, and of clients and servers of a federation."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, clear_autocast_cache, nn

from kdrun.learning.backend import Backend
from kdrun.objectives.terms import Objective


def train_step(
    student: nn.Module,
    teacher: Any,
    objective: Objective,
    batch: dict[str, Any],
    optimizer: Any,
    step: int,
    backend: Backend,
) -> list[Tensor]:
    """One step of the optimizer on a batch. Returns detached scalars: the mean of each active term, the total, and with
    trainer.balance the factor of each active term.

    teacher    source of constants (see teacher.TeacherSource); None where no term needs one
    optimizer  takes one step; one that computes gradients more than once (L-BFGS, SAM) is given a closure for it. None: the
               gradients stay for the caller
    step       number of steps before this one
    backend    where it is computed: task, parts of a batch, precision, ranks (see backend.Backend)
    Raises NoEffect where a term does nothing on the first batch that has it; the weights are then as they were.
    """
    batch = {**batch, "step": step}  # weights, terms and rollouts may depend on it
    if backend.rollout is not None:
        batch = backend.rollout(student, batch)
    if backend.closure:
        return step_of_several_passes(student, teacher, objective, batch, optimizer, step, backend)
    count = backend.count(batch)  # of the whole batch over all parts and ranks, so that these can be split at will
    asked = teacher is not None and (objective.asks_teacher(step) or getattr(teacher, "fills", False))
    values: list[Tensor] = []
    backend.zero_gradients()
    for part in backend.parts(batch):
        # Teacher first: it frees its memory.
        taught = teacher.outputs(part, step) if asked else None
        prediction = backend.predict(student, part["inputs"])
        tensors = backend.tensors(part, prediction, taught)
        total, raw = objective(tensors, count)
        if len(backend.seen) < len(objective.active):
            backend.check(objective, raw, part)
        if backend.balance is not None:
            if not values:
                backend.balance.measure(objective, raw, step, backend.gradient_norm)
            total = objective.total(backend.balance.applied(raw), tensors)
        backend.backward(total)
        here = [*values_of(objective, raw, total), total.detach()]
        values = [sum(pair) for pair in zip(values, here, strict=True)] if values else here
    if backend.balance is not None:
        values += [total.new_tensor(factor).detach() for factor in backend.balance.of(objective)]
    backend.clip_gradients()
    if optimizer is not None:
        optimizer.step()
    return values


def step_of_several_passes(student, teacher, objective, batch, optimizer, step, backend) -> list[Tensor]:
    """As train_step, of an optimizer that asks a closure for gradients: the values of the weights before the step."""
    single = copy.copy(backend)
    single.closure, single.rollout = False, None
    passes: list[list[Tensor]] = []

    def closure() -> Tensor:
        clear_autocast_cache()  # of weights as they were in the pass before
        passes.append(train_step(student, teacher, objective, batch, None, step, single))
        return passes[-1][len(objective.active)]

    optimizer.step(closure)
    return passes[0]


def values_of(objective: Objective, raw: dict[str, Tensor], total: Tensor) -> list[Tensor]:
    """Of all active terms; 0 for one that this part has no position for."""
    return [raw[term.name].detach() if term.name in raw else total.new_zeros(()) for term in objective.active]
