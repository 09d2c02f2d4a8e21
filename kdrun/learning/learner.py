"""The one LightningModule: a student, an objective, perhaps a teacher. It never asks which strategy runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdrun.data.host import placed
from kdrun.learning.adaptor import Adaptors
from kdrun.learning.backend import LightningBackend
from kdrun.learning.balance import Balance
from kdrun.learning.diverged import growth
from kdrun.learning.sharding import gather
from kdrun.learning.step import train_step
from kdrun.learning.teacher import OwnAverage, TeacherSource
from kdrun.learning.wiring import capture_of
from kdrun.networks.modes import hold_frozen
from kdrun.objectives.terms import Objective
from kdrun.term_weights import WeightSchedule


class Held:
    """Holds a module so that nn.Module does not see it: not in parameters(), state_dict(), train() or checkpoints."""

    def __init__(self, value: Any):
        self.value = value


class LearnerModule(LightningModule):
    """Trains `student`; everything else is held where Lightning, the optimizer and checkpoints cannot see it.

    student    the network to train; but for the adaptor and terms that have state the only submodule
    task       what a batch is (see domains/task.py)
    objective  weighted sum of terms (see objectives/terms.py), begun; what its terms learn or remember is in checkpoints to go on
               from and not in what is kept
    optimizer  parameters -> torch optimizer
    rate       step -> factor on the optimizer's learning rates
    teacher    source of frozen outputs, or None
    accumulate micro-batches per step; the gradient equals that of the whole batch
    clip       largest gradient norm, or None
    ema        decay of an exponential moving average of the weights that is then evaluated and kept, or None
    whole      where the student is sharded over ranks: a whole copy, which is evaluated and kept, or None; gathered: see sharding.shard
    adaptor    from the student's features to the sizes of the teacher's; likewise. None where nothing compares features, or
               those of the last layers alone and they are as wide
    alike      the student starts as a copy of its teacher
    balance    steps between measures of the terms' gradients, which are brought to one size; or None (see balance.Balance)

    Learners of other networks may be joined to it (`join`): each takes a step of its own on every batch.
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
        gathered: str | None = None,
        adaptor: Adaptors | None = None,
        alike: bool = False,
        balance: int | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.student = student
        self.adaptor = adaptor
        self.terms = nn.ModuleDict(objective.modules) if objective.modules else None
        self.task = task
        self.objective = objective
        # A teacher none of whose terms has weight is not asked at all.
        self.teacher = teacher if objective.needs_teacher else None
        self.step = 0
        self.positions = 0  # that counted in the losses so far: samples, or tokens
        self.losses: list[
            Tensor
        ] = []  # one [terms + 1] tensor per step since the last flush: raw terms, then the total (see stacked_losses)
        self.evaluated: dict[str, float] = {}
        self.samples: list[
            dict[str, Any]
        ] = []  # what the task tells of single samples, of the last test over all ranks
        self.tested = "test"  # which split the next test is of
        self.written: list[dict[str, Any]] = []  # what the network wrote in that test
        self._make_optimizer = optimizer
        self._rate = rate
        self._base_rates: list[float] = []
        beside = {} if self.terms is None else {"terms": self.terms}
        self.backend = LightningBackend(
            self,
            accumulate=accumulate,
            clip=clip,
            adaptor=adaptor,
            capture=capture_of(student, objective, "student"),
            beside=beside,
            alike=alike,
        )
        if balance is not None:
            self.backend.balance = Balance(balance)
        follows = isinstance(self.teacher, OwnAverage)
        self._ema = Held(None if ema is None else _average(student, ema, quick=follows))
        if follows:
            network = self._ema.value.module
            self.teacher.follow(network, capture_of(network, objective, "teacher"))
        self._whole, self.gathered = Held(whole), gathered
        self._metrics = Held(task.collection())
        self.peers: Any = None
        self._place = 0  # of its optimizer among those of the trainer

    def join(self, peers: Sequence[LearnerModule]) -> None:
        """Learners that are trained on the same batches from now on: in each step one after the other, after this one. They are
        submodules, in checkpoints to go on from and not in what is kept."""
        self.peers = nn.ModuleList(peers)
        for place, peer in enumerate(peers, 1):
            peer._place = place

    @property
    def learners(self) -> list[LearnerModule]:
        """This one and its peers."""
        return [self, *(self.peers or ())]

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
    def sharded(self) -> bool:
        return self._whole.value is not None

    @property
    def first_step(self) -> dict[str, Any]:
        """{term: value and gradient} on the first batch that had it."""
        return self.backend.seen

    @first_step.setter
    def first_step(self, seen: dict[str, Any] | None) -> None:
        self.backend.seen = seen or {}

    @property
    def average(self) -> AveragedModel | None:
        return self._ema.value

    def train(self, mode: bool = True) -> LearnerModule:
        """As of any module, but statistics of what is frozen stay as they are."""
        super().train(mode)
        hold_frozen(self.student)
        return self

    def configure_optimizers(self):
        for peer in self.peers or ():
            peer.trainer = self.trainer
        learning = [self.student, *self.backend.beside.values()]
        trained = [parameter for part in learning for parameter in part.parameters() if parameter.requires_grad]
        optimizer = self._make_optimizer(trained)
        self.backend.trained = [trained]
        self.backend.serve(optimizer)
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        self._optimizer = optimizer
        return [optimizer, *(peer.configure_optimizers() for peer in self.peers)] if self.peers else optimizer

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int):
        # Lightning walks through the batch even where there is nothing to move.
        if device.type == "cpu":
            return batch
        return placed(batch, device)

    def on_fit_start(self) -> None:
        hold_frozen(self.student)  # Lightning takes modes as it finds them
        learning = [self.student, *self.backend.beside.values()]
        normalised = any(isinstance(part, _BatchNorm) and part.training for each in learning for part in each.modules())
        self.backend.smallest = 2 if normalised or getattr(self.teacher, "batch_statistics", False) else 1
        if self.teacher is not None:
            self.teacher.to(self.device)
        if self.average is not None:
            self.average.to(self.device)
        for peer in self.peers or ():
            peer.on_fit_start()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer = optimizer[self._place] if isinstance(optimizer, list) else optimizer
        factor = self._rate(self.step)
        for group, base in zip(optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        batch = {**batch, "epoch": self.trainer.current_epoch}
        if hasattr(self.student, "pace"):  # it changes over training (networks.elastic)
            self.student.pace(self.step, self.step / self.objective.length.steps)
        values = train_step(self.student, self.teacher, self.objective, batch, optimizer, self.step, self.backend)
        if self.average is not None:
            self.average.update_parameters(self.student)
        self.losses.append(values)
        self.step += 1
        self.positions += batch["size"]
        for peer in self.peers or ():
            peer.training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for learner in self.learners:
            if learner._optimizer is optimizer:
                learner.backend.clip_scaled(optimizer)

    def state(self) -> dict[str, Any]:
        """What it goes on from beside weights and optimizer."""
        return {
            "step": self.step,
            "positions": self.positions,
            "losses": self.stacked_losses().cpu() if self.losses else None,
            "first_step": self.first_step,
            "average": None if self.average is None else self.average.state_dict(),
            "balance": self.backend.balance and self.backend.balance.factors,
            "rollouts": self.backend.rollout and self.backend.rollout.state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""
        self.step, self.positions = state["step"], state["positions"]
        self.losses = [] if state["losses"] is None else [list(row) for row in state["losses"].to(self.device)]
        self.first_step = state["first_step"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.backend.balance is not None:
            self.backend.balance.factors = state["balance"]
        if self.backend.rollout is not None:
            self.backend.rollout.resume(state["rollouts"])

    def stacked_losses(self) -> Tensor:
        """[steps, terms + 1 ...]: what has been kept since the last flush, as train_step returns it."""
        return torch.stack([torch.stack(values) for values in self.losses])

    def flush_losses(self) -> dict[str, float]:
        """Means since the last call, as logged: `loss`, and per term the raw value and, where not 1, value times weight; the
        weight itself where it depends on the step, and with trainer.balance the factor on it; and what losses say beside their values. A term without
        weight in all these steps has no value.

        Raises: FloatingPointError naming what is not finite, and the term that grew before.
        """
        if not self.losses:
            return {}
        stacked = self.stacked_losses()
        self.losses.clear()
        terms, figures = self.objective.active, self.objective.figures
        told = () if figures is None else figures.active
        steps = range(self.step - len(stacked), self.step)
        weights = {term.name: [term.weight_at(step, self.objective.length) for step in steps] for term in terms}
        sizes = [len(terms) + 1, len(told), stacked.shape[1] - len(terms) - 1 - len(told)]
        stacked, said, balance = stacked.split(sizes, dim=1)
        balanced = balance.shape[1] > 0
        moving = [n for n, term in enumerate(terms) if balanced or isinstance(term.weight, WeightSchedule)]
        if moving:  # their weighted values, step by step
            factors = stacked.new_tensor([weights[terms[number].name] for number in moving]).T
            factors = factors * balance if balanced else factors
            stacked = torch.cat([stacked, stacked[:, moving] * factors, balance], dim=1)
        mean = torch.cat([stacked, said], dim=1).mean(dim=0)
        if self.trainer.world_size > 1:
            mean = self.trainer.strategy.reduce(mean, reduce_op="mean")
        means = mean.tolist()
        means, said = means[: len(means) - len(told)], means[len(means) - len(told) :]
        values, further = {"loss": means[len(terms)]}, means[len(terms) + 1 :]
        products = dict(zip(moving, further, strict=False))
        for number, term in enumerate(terms):
            counted = sum(weight != 0 for weight in weights[term.name])
            if not counted:
                continue  # it was not computed
            values[term.name] = means[number] * (len(steps) / counted)
            if number in products:
                if isinstance(term.weight, WeightSchedule):
                    values[f"{term.name}_weight"] = sum(weights[term.name]) / len(steps)
                values[f"{term.name}_weighted"] = products[number]
                if balanced:
                    values[f"{term.name}_balance"] = further[len(moving) + number]
            elif term.weight != 1:
                values[f"{term.name}_weighted"] = means[number] * term.weight
        for figure, value in zip(told, said, strict=True):
            if counted := sum(figure.weight_at(step, self.objective.length) != 0 for step in steps):
                values[figure.name] = value * (len(steps) / counted)
        for name, value in values.items():
            if value != value or value in (float("inf"), float("-inf")):
                rows = stacked[:, : len(terms)] * stacked.new_tensor([weights[term.name] for term in terms]).T
                grew = growth([term.name for term in terms], rows, self.step)
                raise FloatingPointError(f"the {name} term became {value} at step {self.step} of training{grew}")
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
        for learner in self.learners:
            learner._evaluate(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_start(self) -> None:
        self.gather()
        for learner in self.learners:
            learner._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        for learner in self.learners:
            learner._end_evaluation()
            if learner.backend.rollout is not None and self.trainer.state.fn == "fit":
                learner.backend.rollout.judged(learner.evaluated["loss"])

    def on_test_epoch_end(self) -> None:
        scores, self.written = self.task.generation_scores(self.network, self.tested)
        self._end_evaluation()
        self.evaluated |= scores


# Lightning reads this in every step; made anew each time it takes 60 microseconds.
LearnerModule.training_step.__signature__ = inspect.signature(LearnerModule.training_step)


def _average(student: nn.Module, decay: float, quick: bool = False) -> AveragedModel:
    """Parameters averaged, buffers (batch-norm statistics and counters) copied: use_buffers=False does just that.

    quick: the decay is 1 - 1 / n at most in step n, so that the first weights do not linger (arXiv 1703.01780).
    """

    def update(averages: Any, parameters: Any, steps: Any) -> None:
        get_ema_multi_avg_fn(min(decay, 1 - 1 / (int(steps) + 1)))(averages, parameters, steps)

    return AveragedModel(student, multi_avg_fn=update if quick else get_ema_multi_avg_fn(decay), use_buffers=False)
