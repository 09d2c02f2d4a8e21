"""The gradient step: of the learner in a Lightning trainer, and of clients and servers of a federation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, clear_autocast_cache, nn

from kdrun.learning import seeds
from kdrun.learning.backend import Backend
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError


def train_step(
    student: nn.Module,
    teacher: Any,
    objective: Objective,
    batch: dict[str, Any],
    optimizer: Any,
    step: int,
    backend: Backend,
) -> list[Tensor]:
    """One step of the optimizer on a batch. Returns detached scalars: the mean of each active term, the total, what losses say beside their
    values (Objective.figures), and with trainer.balance the factor of each active term.

    teacher    source of constants (see teacher.TeacherSource); None where no term needs one
    optimizer  takes one step; one that computes gradients more than once (L-BFGS, SAM) is given a closure for it. None: the
               gradients stay for the caller
    step       number of steps before this one
    backend    where it is computed: task, parts of a batch, precision, ranks (see backend.Backend)
    Raises NoEffect where a term does nothing on the first batch that has it; the weights are then as they were.
    """
    batch = {**batch, "step": step}  # weights, terms and rollouts may depend on it
    if backend.rollout is not None:
        batch = backend.rollout(student, batch, teacher)
    if backend.closure:
        return step_of_several_passes(student, teacher, objective, batch, optimizer, step, backend)
    count = backend.count(batch)  # of the whole batch over all parts and ranks, so that these can be split at will
    asked = teacher is not None and (objective.asks_teacher(step) or getattr(teacher, "fills", False))
    values: list[Tensor] = []
    backend.zero_gradients()
    parts = backend.parts(batch)
    for number, part in enumerate(parts, 1):
        if number > 1:
            backend.leaving()
        tensors = compared(student, teacher if asked else None, objective, part, step, backend)
        total, raw = objective(tensors, count)
        if len(backend.seen) < len(objective.active):
            backend.check(objective, raw, part)
        if backend.balance is not None:
            if not values:
                backend.balance.measure(objective, raw, step, backend.gradient_norm)
            total = objective.total(backend.balance.applied(raw), tensors)
        backend.backward(total, last=number == len(parts))
        here = [*values_of(objective, raw, total), total.detach(), *figures_of(objective, tensors, count)]
        values = [before + value for before, value in zip(values, here, strict=True)] if values else here
    if backend.balance is not None:
        values += [total.new_tensor(factor).detach() for factor in backend.balance.of(objective)]
    backend.clip_gradients()
    if optimizer is not None:
        optimizer.step()
    return values


def compared(
    student: nn.Module, teacher: Any, objective: Objective, batch: dict[str, Any], step: int, backend: Backend
) -> Any:
    """What terms are given of a batch: tensors by name, of several teachers those with each of them; what a further view of its samples
    gives is below the name of the view. teacher: None where it is not asked."""
    # Teacher first: it frees its memory.
    taught = None if teacher is None else teacher.outputs(batch, step)
    tensors = backend.tensors(batch, backend.predict(student, batch["inputs"]), taught)
    for view, term in {} if "shown" in batch else objective.views.items():
        if view not in batch:
            raise UserError(*no_view(term, view))
        seen = {**batch, "inputs": batch[view], "shown": view}
        further = compared(student, teacher, objective, seen, step, backend)
        for each, of_view in zip(_all(tensors), _all(further), strict=True):
            each[view] = of_view
    return tensors


def no_view(term: str, view: str) -> tuple[str, str]:
    """What is to be told where samples have no such view."""
    return (
        f"objective.{term}.view={view}: these data show each sample in one view",
        f"give data.augment.{view}, as in 'data.augment.{view}={{rand_augment: {{}}}}' (images)",
    )


def _all(tensors: Any) -> list[dict[str, Any]]:
    return tensors if isinstance(tensors, list) else [tensors]


def step_of_several_passes(
    student: nn.Module,
    teacher: Any,
    objective: Objective,
    batch: dict[str, Any],
    optimizer: Any,
    step: int,
    backend: Backend,
) -> list[Tensor]:
    """As train_step, of an optimizer that asks a closure for gradients: the values of the weights before the step.

    Where the optimizer says how many passes it takes (SAM), all of them are of one function of the weights: each draws the
    random numbers of the first (dropout), and begins with the buffers that the first began with. What the first leaves in
    buffers (batch-norm statistics, what a term remembers) is what the step leaves.
    """
    single = copy.copy(backend)
    single.closure, single.rollout = False, None
    passes: list[list[Tensor]] = []
    alike = _Alike([student, *backend.beside.values()]) if backend.passes > 1 else nullcontext

    def closure() -> Tensor:
        clear_autocast_cache()  # of weights as they were in the pass before
        with alike():
            passes.append(train_step(student, teacher, objective, batch, None, step, single))
        backend.seen = single.seen
        if single.balance is not None and backend.passes > 1:
            single.balance = single.balance.fixed()  # measured at the weights before the step
        return passes[-1][len(objective.active)]

    optimizer.step(closure)
    return passes[0]


class _Alike:
    """What a pass is done in, so that each begins with the buffers and the random state of the first, whose buffers then stay."""

    def __init__(self, modules: Sequence[nn.Module]):
        self._modules = modules
        self._begin: tuple[list[Tensor], dict[str, Any]] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = [buffer.clone() for buffer in self._buffers()]
        if self._begin is None:
            self._begin = before, seeds.capture()
            yield
            return
        buffers, random = self._begin
        self._put(buffers)
        seeds.restore(random)
        yield
        self._put(before)

    def _buffers(self) -> list[Tensor]:
        return [buffer for module in self._modules for buffer in module.buffers()]

    def _put(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in zip(self._buffers(), values, strict=True):
                buffer.copy_(value)


def values_of(objective: Objective, raw: dict[str, Tensor], total: Tensor) -> list[Tensor]:
    """Of all active terms; 0 for one that this part has no position for."""
    return [raw[term.name].detach() if term.name in raw else total.new_zeros(()) for term in objective.active]


@torch.no_grad()
def figures_of(objective: Objective, tensors: Any, count: Any) -> list[Tensor]:
    """Means of what losses say beside their values; 0 for one that has no weight in this step."""
    if (figures := getattr(objective, "figures", None)) is None:
        return []
    total, raw = figures(tensors, count)
    return values_of(figures, raw, total)
