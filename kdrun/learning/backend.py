"""Where a gradient step is computed: in one process, or by Lightning in any precision and on any number of ranks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdrun.data.host import HOST, Places
from kdrun.learning.adaptor import Adaptors
from kdrun.learning.balance import Balance
from kdrun.learning.execution import Execution
from kdrun.learning.firststep import check_first_step, gradient_norms, joined
from kdrun.learning.microbatches import micro_batches
from kdrun.learning.sharding import each_rank_alone
from kdrun.learning.wiring import predicted
from kdrun.networks.capture import Capture
from kdrun.objectives.objective_term import FROM_BATCH, IMAGES, labelled_positions
from kdrun.objectives.terms import Objective

MASKS = {IMAGES: "visual_mask"}
"""What a term is over -> the positions in a batch that it needs, where that has another name."""


class Backend:
    """What surrounds the gradient steps of a student, here in one process.

    task        what a batch is (see domains/task.py)
    student     its parameters are those that terms have to reach
    accumulate  largest number of parts that a batch is computed in; the gradient is that of the whole batch
    clip        largest gradient norm, or None
    adaptor     between features of student and teacher; trains along, or None (see adaptor.Adaptors)
    capture     what is captured of the student, or None
    beside      what else trains along: modules by name, terms that have parameters
    alike       the student starts as a copy of its teacher (see firststep)
    trained     parameters that learn, one list per network: each network's gradient is clipped by itself
    rollout     (student, batch, teacher) -> batch, called before the teacher is asked; None where batches are used as they come (see rollouts)
    seen        {term: {"value", "gradient"}} on the first batch that had it
    smallest    samples that each part of a batch needs
    closure     the optimizer computes gradients more than once in a step
    passes      how often, where the optimizer says it
    balance     of the gradients of terms, or None
    execution   how the student's forward pass is computed, where not plainly
    leaving     called between parts of a batch; raises where a stop was asked for and the step would take too long: the batch is then lost
    """

    ranks = 1

    def __init__(
        self,
        task: Any,
        student: nn.Module,
        accumulate: int = 1,
        clip: float | None = None,
        adaptor: Adaptors | None = None,
        capture: Capture | None = None,
        beside: Mapping[str, nn.Module] | None = None,
        alike: bool = False,
    ):
        self.task, self.student, self.accumulate, self.clip = task, student, accumulate, clip
        self.adaptor, self.capture, self.alike = adaptor, capture, alike
        self.beside = {**({} if adaptor is None else {"adaptor": adaptor}), **(beside or {})}
        self.trained: Sequence[list[nn.Parameter]] = ()
        self.rollout: Callable[[nn.Module, dict[str, Any], Any], dict[str, Any]] | None = None
        self.seen: dict[str, dict[str, float]] = {}
        self.smallest, self.closure, self.passes = 1, False, 1
        self.balance: Balance | None = None
        self.execution: Execution | None = None
        self.leaving: Callable[[], None] = lambda: None

    def serve(self, optimizer: Any) -> None:
        """Takes from the optimizer how often it computes gradients in a step."""
        self.closure, self.passes = wants_closure(optimizer), getattr(optimizer, "passes", 1)

    def zero_gradients(self) -> None:
        for parameters in self.trained:  # what optimizer.zero_grad does, for a third of its time
            for parameter in parameters:
                parameter.grad = None

    def count(self, batch: dict[str, Any]) -> Any:
        """What sums over positions are divided by, see objectives.terms.Objective: each rank divides by its even share of
        the whole batch, so that averaging gradients over ranks gives the mean."""
        sizes = batch.get("sizes")
        return batch["size"] / self.ranks if sizes is None else {name: n / self.ranks for name, n in sizes.items()}

    def parts(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return micro_batches(batch, self.accumulate, self.smallest, self.agreed)

    def agreed(self, number: int) -> int:
        """The smallest of all ranks."""
        return number

    def summed(self, number: int) -> int:
        """The sum over all ranks."""
        return number

    def predict(self, student: nn.Module, inputs: Any) -> Any:
        """The student's forward pass, with what is captured in it."""
        return predicted(self.task, student, inputs, self.capture, self.execution)

    def tensors(self, batch: dict[str, Any], prediction: Any, taught: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """What the task gives and what is captured, the student's as large as the teacher's; and what the batch says of itself.
        With several teachers a list, for each of them."""
        if isinstance(taught, list):
            return [cast("dict[str, Any]", self.tensors(batch, prediction, each)) for each in taught]
        tensors = self.task.tensors(batch, prediction, taught)
        tensors |= {name: batch[name] for name in FROM_BATCH if name in batch}
        tensors |= labelled_positions(batch, tensors.get("mask"))
        tensors["places"] = places_of(batch, tensors)
        tensors["outputs"] = getattr(prediction, "features", {})  # clients may predict with several networks
        if self.adaptor is not None:
            if self.adaptor.features is not None:
                tensors["student_features"] = self.adaptor.features(tensors["student_features"])
            tensors["captured"] = self.adaptor.captured(prediction, taught, batch.get("shown"))
        return tensors

    def check(self, objective: Objective, raw: dict[str, Tensor], part: dict[str, Any], scale: float = 1.0) -> None:
        """Looks at each term on the first part of a batch that has it: text alone has nothing over image slots, though
        the rest of its batch, on this rank or on another, may have. scale: see firststep.gradient_norms."""
        if not any(name not in self.seen for name in raw):
            return
        overs = {term.name: term.counted(part) for term in objective.active}
        masks = {name: part.get(MASKS.get(over, over)) for name, over in overs.items()}
        here = {name: value for name, value in raw.items() if (mask := masks[name]) is None or bool(mask.any())}
        looked = check_first_step(objective, here, self.student, self.seen, self.alike, self.beside, scale)
        self.seen = {**self.seen, **looked}

    def gradient_norm(self, value: Tensor, scale: float = 1.0) -> float:
        """Of a scalar by the student's parameters, a mean over ranks; scale: see firststep.gradient_norms."""
        learning = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        return joined(gradient_norms(value, learning, scale)) if value.requires_grad else 0.0

    def backward(self, total: Tensor, last: bool = True) -> None:
        """last: of the parts of a batch; ranks average their gradients once, after it."""
        total.backward()

    def clip_gradients(self) -> None:
        if self.clip is not None:
            for parameters in self.trained:
                torch.nn.utils.clip_grad_norm_(parameters, self.clip)


def places_of(batch: dict[str, Any], tensors: Mapping[str, Any]) -> Places | None:
    """Where the masks of a batch are true; None where they are in main memory anyway, or are not those that the task counts."""
    kept = batch.get(HOST)
    if not kept or ("mask" in kept and tensors.get("mask") is not batch["mask"]):
        return None
    device = next(batch[name] for name in kept).device
    return Places({**kept, **labelled_positions(kept, kept.get("mask"))}, device)


class LightningBackend(Backend):
    """The steps of a learner in a Lightning trainer: precision plugins, ranks, students sharded over ranks."""

    def __init__(self, learner: Any, **options: Any):
        super().__init__(learner.task, learner.student, **options)
        self.learner = learner

    @property
    def ranks(self) -> int:  # type: ignore[override]
        return self.learner.trainer.world_size

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What multiplies losses in fp16."""
        return None if self.learner._trainer is None else getattr(self.learner.trainer.precision_plugin, "scaler", None)

    def agreed(self, number: int) -> int:
        return self._reduced(number, "min")

    def summed(self, number: int) -> int:
        return self._reduced(number, "sum")

    def _reduced(self, number: int, how: str) -> int:
        if self.ranks == 1:
            return number
        strategy, device = self.learner.trainer.strategy, self.learner.device
        return int(strategy.reduce(torch.tensor(number, device=device), reduce_op=how))

    def check(self, objective: Objective, raw: dict[str, Tensor], part: dict[str, Any], scale: float = 1.0) -> None:
        scale = 1.0 if self.scaler is None else self.scaler.get_scale()
        with each_rank_alone(self.student), self._without_autocast():
            super().check(objective, raw, part, scale)

    def gradient_norm(self, value: Tensor, scale: float = 1.0) -> float:
        with self._without_autocast():
            norm = super().gradient_norm(value, 1.0 if self.scaler is None else self.scaler.get_scale())
        if self.ranks == 1:
            return norm
        strategy, device = self.learner.trainer.strategy, self.learner.device
        return float(strategy.reduce(torch.tensor(norm, device=device), reduce_op="mean"))

    def backward(self, total: Tensor, last: bool = True) -> None:
        together = self.ranks > 1 and not self.learner.sharded
        if together and last:
            total = TakingPart.apply(total, *self.trained[0])
        if together:
            # As DistributedDataParallel.no_sync does, which has to be entered before a forward pass; Lightning asks for it in every backward.
            self.learner.trainer.strategy.model.require_backward_grad_sync = last
        with self._without_autocast():
            self.learner.manual_backward(total)

    def clip_gradients(self) -> None:
        if self.scaler is None:  # else they are clipped once they are divided by the scale of the loss
            super().clip_gradients()

    def clip_scaled(self, optimizer: torch.optim.Optimizer) -> None:
        """Called when Lightning has divided gradients by the scale of the loss; an optimizer that would divide them itself
        (fused) does so later, and then finds it done."""
        if self.scaler is not None and self.clip is not None:
            if getattr(optimizer, "_step_supports_amp_scaling", False):
                self.scaler.unscale_(optimizer)
            super().clip_gradients()

    def _without_autocast(self) -> AbstractContextManager[None]:
        """A backward pass computes in the types of its forward pass."""
        device = self.learner.device.type
        return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class TakingPart(torch.autograd.Function):
    """A loss as it is, in which each of the parameters has a part, with a gradient of zero.

    Ranks wait for the gradient of every parameter. A rank without one (of a projector, where its samples have no images)
    would leave the others waiting.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: nn.Parameter) -> Tensor:
        ctx.parameters = parameters
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(parameter.new_zeros(()).expand_as(parameter) for parameter in ctx.parameters)


def wants_closure(optimizer: Any) -> bool:
    """Whether a step computes gradients more than once: its closure has no default (L-BFGS), or the optimizer says so by
    `passes = 2` (sharpness-aware minimisation, arXiv 2010.01412)."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return getattr(optimizer, "passes", 1) > 1 or (closure is not None and closure.default is closure.empty)
