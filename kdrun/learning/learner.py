"""The one LightningModule: a student, an objective, perhaps a teacher. It never asks which strategy runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdrun.learning.firststep import check_first_step
from kdrun.learning.microbatches import micro_batches
from kdrun.learning.sharding import each_rank_alone, gather
from kdrun.learning.teacher import TeacherSource
from kdrun.networks.modes import hold_frozen
from kdrun.objectives.terms import IMAGES, Objective


class Held:
    """Holds a module so that nn.Module does not see it: not in parameters(), state_dict(), train() or checkpoints."""

    def __init__(self, value: Any):
        self.value = value


class Learner(LightningModule):
    """Trains `student`; everything else is held where Lightning, the optimizer and checkpoints cannot see it.

    student    the network to train; but for the adaptor the only submodule
    task       what a batch is (see domains/base.py)
    objective  weighted sum of terms (see objectives/terms.py)
    optimizer  parameters -> torch optimizer
    rate       step -> factor on the optimizer's learning rates
    teacher    source of frozen outputs, or None
    accumulate micro-batches per step; the gradient equals that of the whole batch
    clip       largest gradient norm, or None
    ema        decay of an exponential moving average of the weights that is then evaluated and kept, or None
    whole      where the student is sharded over ranks: a whole copy, which is evaluated and kept, or None
    adaptor    from the student's features to the width of the teacher's; trains along, is in checkpoints to go on from and
               not in what is kept. None where the widths are equal or nothing compares features
    alike      the student starts as a copy of its teacher
    """

    def __init__(
        self,
        student: nn.Module,
        task,
        objective: Objective,
        *,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        rate: Callable[[int], float] = lambda step: 1.0,
        teacher: TeacherSource | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        ema: float | None = None,
        whole: nn.Module | None = None,
        adaptor: nn.Module | None = None,
        alike: bool = False,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.student = student
        self.adaptor = adaptor
        self.alike = alike
        self.task = task
        self.objective = objective
        # A teacher none of whose terms has weight is not asked at all.
        self.teacher = teacher if objective.needs_teacher else None
        self.accumulate = accumulate
        self.clip = clip
        self.step = 0
        self.positions = 0  # that counted in the losses so far: samples, or tokens
        self.losses: list[
            Tensor
        ] = []  # one [terms + 1] tensor per step since the last flush: raw terms, then the total
        self.first_step: dict[str, Any] | None = None
        self.evaluated: dict[str, float] = {}
        self.samples: list[
            dict[str, Any]
        ] = []  # what the task tells of single samples, of the last test over all ranks
        self._make_optimizer = optimizer
        self._rate = rate
        self._base_rates: list[float] = []
        self._trained: list[nn.Parameter] = []
        self._smallest = 1  # samples that a micro-batch needs
        self._ema = Held(_average(student, ema) if ema is not None else None)
        self._whole = Held(whole)
        self._metrics = Held(task.metrics())

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this name some forty times a step; the full nn.Module.__setattr__ costs 0.1 ms per step for it.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def network(self) -> nn.Module:
        """What is evaluated and kept: the average if there is one, else the student (the copy of a sharded one)."""
        if self._whole.value is not None:
            return self._whole.value
        return self.student if self._ema.value is None else self._ema.value.module

    @property
    def average(self) -> AveragedModel | None:
        return self._ema.value

    def train(self, mode: bool = True) -> Learner:
        """As of any module, but statistics of what is frozen stay as they are."""
        super().train(mode)
        hold_frozen(self.student)
        return self

    def configure_optimizers(self):
        learning = [self.student] if self.adaptor is None else [self.student, self.adaptor]
        self._trained = [parameter for part in learning for parameter in part.parameters() if parameter.requires_grad]
        optimizer = self._make_optimizer(self._trained)
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int):
        # Lightning walks through the batch even where there is nothing to move.
        if device.type == "cpu":
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_fit_start(self) -> None:
        hold_frozen(self.student)  # Lightning takes modes as it finds them
        normalised = any(isinstance(part, _BatchNorm) and part.training for part in self.student.modules())
        self._smallest = 2 if normalised or getattr(self.teacher, "batch_statistics", False) else 1
        if self.teacher is not None:
            self.teacher.to(self.device)
        if self.average is not None:
            self.average.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimizer = self.optimizers()
        factor = self._rate(self.step)
        for group, base in zip(optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        for parameter in self._trained:  # what optimizer.zero_grad does, for a third of its time
            parameter.grad = None
        # Every rank divides by its even share of the whole batch; averaging gradients over ranks then gives the mean.
        ranks = self.trainer.world_size
        sizes = batch.get("sizes")
        count = batch["size"] / ranks if sizes is None else {name: size / ranks for name, size in sizes.items()}
        values: list[Tensor] = []
        for chunk in micro_batches(batch, self.accumulate, self._smallest, self._agreed):
            # Teacher first: it frees its memory.
            taught = None if self.teacher is None else self.teacher.outputs(chunk, self.step)
            prediction = self.task.predict(self.student, chunk["inputs"])
            total, raw = self.loss(chunk, prediction, taught, count)
            if self.first_step is None or len(self.first_step) < len(self.objective.active):
                self._check(raw, chunk)
            if ranks > 1 and self._whole.value is None:
                total = TakingPart.apply(total, *self._trained)
            with self._own_types():
                self.manual_backward(total)
            part = [*self._values(raw), total.detach()]
            values = [sum(pair) for pair in zip(values, part, strict=True)] if values else part
        if self._scaler is None:
            self._clip()
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.student)
        self.losses.append(values)
        self.step += 1
        self.positions += batch["size"]

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """What multiplies losses in fp16."""
        return None if self._trainer is None else getattr(self.trainer.precision_plugin, "scaler", None)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Lightning comes here when it has divided gradients by the scale of the loss; an optimizer that would divide them
        itself (fused) does so later, and then finds it done."""
        if self._scaler is not None and self.clip is not None:
            if getattr(optimizer, "_step_supports_amp_scaling", False):
                self._scaler.unscale_(optimizer)
            self._clip()

    def _clip(self) -> None:
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self.clip)

    def _agreed(self, number: int) -> int:
        """The smallest of all ranks."""
        if self.trainer.world_size == 1:
            return number
        return int(self.trainer.strategy.reduce(torch.tensor(number, device=self.device), reduce_op="min"))

    def _own_types(self):
        """Outside of autocast: a backward pass computes in the types of its forward pass."""
        device = self.device.type
        return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()

    def loss(self, batch: dict[str, Any], prediction, taught, count) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective; with several teachers, each of the terms that need one is a mean over them."""
        if not isinstance(taught, list):
            return self.objective(self._tensors(batch, prediction, taught), count)
        tensors = self._tensors(batch, prediction, taught[0])
        _, raw = self.objective(tensors, count)
        for one in taught[1:]:
            _, more = self.objective(self._tensors(batch, prediction, one), count, taught_only=True)
            raw |= {name: raw[name] + value for name, value in more.items()}
        for term in self.objective.active:
            if term.needs_teacher and term.name in raw:
                raw[term.name] = raw[term.name] / len(taught)
        return self.objective.total(raw, tensors), raw

    def _tensors(self, batch: dict[str, Any], prediction, taught) -> dict[str, Any]:
        """What the task gives, the student's features as wide as the teacher's."""
        tensors = self.task.tensors(batch, prediction, taught)
        if self.adaptor is not None:
            tensors["student_features"] = self.adaptor(tensors["student_features"])
        return tensors

    def _check(self, raw: dict[str, Tensor], chunk: dict[str, Any]) -> None:
        """Looks at each term on the first part of a batch that has it: text alone has nothing over image slots, though
        the rest of its batch, on this rank or on another, may have."""
        seen = self.first_step or {}
        masks = {term.name: chunk.get(MASKS.get(term.over, term.over)) for term in self.objective.active}
        here = {name: value for name, value in raw.items() if masks[name] is None or bool(masks[name].any())}
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        with each_rank_alone(self.student), self._own_types():
            looked = check_first_step(self.objective, here, self.student, seen, self.alike, self.adaptor, scale)
        self.first_step = {**seen, **looked}

    def _values(self, raw: dict[str, Tensor]) -> list[Tensor]:
        """Of all active terms; 0 for one that this batch has no position for."""
        return [
            raw[term.name].detach() if term.name in raw else torch.zeros((), device=self.device)
            for term in self.objective.active
        ]

    def stacked_losses(self) -> Tensor:
        """[steps, terms + 1]: what has been kept since the last flush."""
        return torch.stack([torch.stack(values) for values in self.losses])

    def flush_losses(self) -> dict[str, float]:
        """Means since the last call, as logged: `loss`, and per term the raw value and, where not 1, value times weight.

        Raises: FloatingPointError naming the term that is not finite.
        """
        if not self.losses:
            return {}
        mean = self.stacked_losses().mean(dim=0)
        self.losses.clear()
        if self.trainer.world_size > 1:
            mean = self.trainer.strategy.reduce(mean, reduce_op="mean")
        *raw, total = mean.tolist()
        values = {"loss": total}
        for term, value in zip(self.objective.active, raw, strict=True):
            values[term.name] = value
            if term.weight != 1:
                values[f"{term.name}_weighted"] = value * term.weight
        for name, value in values.items():
            if value != value or value in (float("inf"), float("-inf")):
                raise FloatingPointError(f"the {name} term became {value} at step {self.step} of training")
        return values

    def _evaluate(self, batch: dict[str, Any]) -> None:
        network = self.network
        if network.training:  # the average is not a submodule, so Lightning does not switch it
            network.eval()
        self.samples += self.task.evaluate(self._metrics.value, network, batch, final=self.trainer.testing) or []

    def gather(self) -> None:
        """Brings the copy of a sharded student up to date; called on all ranks."""
        if self._whole.value is not None:
            gather(self.student, self._whole.value)

    def _start_evaluation(self) -> None:
        if self.trainer.world_size > 1:
            # Batch-norm statistics are each rank's own until the next forward pass: what is evaluated on all ranks has
            # to be what rank 0 will save.
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self._metrics.value.to(self.device).reset()
        self.network.to(self.device)
        self.samples = []

    def _end_evaluation(self) -> None:
        self.evaluated = {name: float(value) for name, value in self._metrics.value.compute().items()}
        self._metrics.value.reset()
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, self.samples)
            self.samples = [row for part in parts for row in part]
        self.samples.sort(key=lambda row: row["id"])
        if self._whole.value is not None:
            self._whole.value.to("cpu")  # the device is for training

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_start(self) -> None:
        self.gather()
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        self._end_evaluation()

    def on_test_epoch_end(self) -> None:
        self._end_evaluation()


# Lightning reads this in every step; made anew each time it takes 60 microseconds.
Learner.training_step.__signature__ = inspect.signature(Learner.training_step)


def _average(student: nn.Module, decay: float) -> AveragedModel:
    """Parameters averaged, buffers (batch-norm statistics and counters) copied: use_buffers=False does just that."""
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)


class TakingPart(torch.autograd.Function):
    """A loss as it is, in which each of the parameters has a part, with a gradient of zero.

    Ranks wait for the gradient of every parameter. A rank without one (of a projector, where its samples have no images)
    would leave the others waiting.
    """

    @staticmethod
    def forward(ctx, loss: Tensor, *parameters: nn.Parameter) -> Tensor:
        ctx.parameters = parameters
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(parameter.new_zeros(()).expand_as(parameter) for parameter in ctx.parameters)


MASKS = {IMAGES: "visual_mask"}
"""What a term is over -> the positions in a batch that it needs, where that has another name."""
