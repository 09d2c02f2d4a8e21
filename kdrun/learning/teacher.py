"""Where a teacher's outputs come from: the frozen network itself (online), or its outputs on disk (cached).

A teacher is never a submodule of what is trained. It is held by a plain object, so that no `.train()`, optimizer,
checkpoint, EMA or parameter count can reach it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from kdrun.data.host import moved
from kdrun.data.module import BatchView
from kdrun.domains.task import Prediction
from kdrun.learning.execution import Execution
from kdrun.learning.sharding import shard_frozen
from kdrun.learning.wiring import predicted
from kdrun.networks.capture import Capture
from kdrun.objectives.objective_term import versions
from kdrun.problems import UserError


class TeacherSource(Protocol):
    """`outputs(batch, step)`: the teacher's frozen prediction for a batch; never requires a gradient.

    Several teachers give a list, which may depend on the step.
    """

    fingerprint: str
    samples: int  # how many samples a network was asked for, which is what a teacher costs

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction | list[Prediction]: ...

    def to(self, device: torch.device) -> None: ...

    def close(self) -> None: ...


class FrozenTeacher:
    """A network in eval mode for good: `.train()` on it does nothing, its parameters ask for no gradient.

    normalize: {"scale": [C], "shift": [C]} that turns inputs as the student sees them into inputs as this teacher was
    trained on (x * scale + shift), or None when both agree.
    turn: (scale, shift) of its outputs into the units of the student's targets, or None.
    capture: what is captured of the network, or None.
    execution: how its forward pass is computed, where not plainly.
    precision: number format of its matrices and of automatic mixed precision in its forward pass; None: as whoever asks.
    batch_statistics: whether batch normalisation uses those of each batch; see use_batch_statistics.
    """

    batch_statistics = False
    capture: Capture | None = None
    execution: Execution | None = None
    precision: torch.dtype | None = None

    def __init__(
        self,
        network: nn.Module,
        task: Any,
        fingerprint: str,
        normalize: dict[str, Tensor] | None = None,
        turn: tuple[float, float] | None = None,
    ):
        network.requires_grad_(False)
        network.eval()
        for module in network.modules():
            module.__dict__["train"] = _stay(module)
        self.network = network
        self.task = task
        self.fingerprint = fingerprint
        self.normalize, self.turn = normalize, turn
        self.samples = 0
        self._digest = state_digest(network.state_dict())

    @torch.no_grad()
    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        inputs = batch["inputs"]
        self.samples += self.task.size(inputs)
        given = inputs.values() if isinstance(inputs, Mapping) else [inputs]
        before = versions(given)
        with self._mixed(next(_tensors_of(inputs)).device.type):
            said = predicted(self.task, self.network, as_seen(inputs, self.normalize), self.capture, self.execution)
        if versions(given) != before:
            raise UserError(
                f"the teacher {type(self.network).__name__} changes its inputs in place, and its student would be given what "
                "it left: let its forward pass begin with a copy"
            )
        return said if self.turn is None else replace(said, logits=said.dense() * self.turn[0] + self.turn[1])

    def compute_in(self, precision: torch.dtype) -> None:
        """From now on matrices (convolutions, embeddings) are in this number format, and the forward pass in automatic mixed precision;
        norms and biases, which are small, stay as they are. Whoever asks: preflight, a cache, its verification, a student."""
        for parameter in self.network.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.data = parameter.data.to(precision)
        self.precision = precision
        self._digest = state_digest(self.network.state_dict())

    def share(self, device: torch.device) -> None:
        """From now on its weights lie in parts over all ranks, which have to ask it together."""
        shard_frozen(self.network, device)
        self._digest = state_digest(self.network.state_dict())

    def _mixed(self, device: str) -> AbstractContextManager[Any]:
        return nullcontext() if self.precision is None else torch.autocast(device, self.precision)

    def use_batch_statistics(self) -> None:
        """From now on batch normalisation divides by the statistics of each batch, as in training; its own are neither used
        nor changed, and all else (dropout) stays in eval mode. Raises UserError for a network that has none."""
        norms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
        if not norms:
            raise UserError(
                f"teacher.mode=batch_stats: {type(self.network).__name__} has no batch normalisation",
                "give teacher.mode=eval",
            )
        for module in norms:
            module.training, module.track_running_stats = True, False
        self.batch_statistics = True

    def use_dropout(self) -> None:
        """From now on units are dropped as in training, drawn from the global generator (which checkpoints keep); all else
        (batch normalisation) stays in eval mode. Raises UserError for a network that drops nothing."""
        dropping = [module for module in self.network.modules() if _drops(module)]
        if not dropping:
            raise UserError(
                f"teacher.mode=dropout: {type(self.network).__name__} has no dropout with a probability above 0",
                "give teacher.mode=eval",
            )
        for module in dropping:
            module.training = True

    def use(self, mode: str) -> None:
        """teacher.mode: eval, batch_stats or dropout."""
        if mode == "batch_stats":
            self.use_batch_statistics()
        elif mode == "dropout":
            self.use_dropout()

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def close(self) -> None:
        """Called when the stage is over.

        Raises: RuntimeError if a parameter or a buffer is not bit-identical to what it was.
        """
        getattr(self.network, "reshard", lambda: None)()  # what was left whole after the last forward pass
        if state_digest(self.network.state_dict()) != self._digest:
            raise RuntimeError(
                "the teacher's parameters or buffers changed while it taught; its outputs were not frozen"
            )


class Around:
    """A live teacher that is asked, or whose answers are told, in another way. What it costs and where it is are the live one's."""

    def __init__(self, live: Any):
        self.live, self.fingerprint = live, live.fingerprint

    @property
    def samples(self) -> int:
        return self.live.samples

    @property
    def batch_statistics(self) -> bool:
        return self.live.batch_statistics

    def to(self, device: torch.device) -> None:
        self.live.to(device)

    def close(self) -> None:
        self.live.close()


class Elsewhere(Around):
    """A live teacher on a device of its own: batches are brought there, and what it says back to where they were."""

    def __init__(self, live: FrozenTeacher, device: torch.device):
        super().__init__(live)
        self.device = device
        live.to(device)

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        home = next(_tensors_of(batch["inputs"])).device
        return self.live.outputs(moved(batch, self.device), step).on(home)

    def to(self, device: torch.device) -> None:
        pass  # it stays where it is


def _tensors_of(inputs: Any) -> Iterator[Tensor]:
    """Those of inputs, which are one tensor or a mapping of them."""
    values = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return (value for value in values if isinstance(value, Tensor))


class OtherView(Around):
    """A live teacher that sees the samples of a batch otherwise than the student does; view: how."""

    def __init__(self, live: Any, view: BatchView):
        super().__init__(live)
        self.view, self.device = view, torch.device("cpu")

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        seen = moved(self.view.seen(batch), self.device)
        return self.view.told(self.live.outputs(seen), seen)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.device = device


class OwnAverage:
    """The moving average of a student's own weights as its teacher (arXiv 1703.01780), in eval mode. The learner that makes the
    average hands it over (`follow`) and moves, keeps and resumes it."""

    fingerprint = "average"

    def __init__(self, task: Any):
        self.task, self.samples = task, 0
        self.network: nn.Module
        self.capture: Capture | None = None

    def follow(self, network: nn.Module, capture: Capture | None) -> None:
        """network: the average; capture: of it, what is compared of its inside."""
        self.network, self.capture = network, capture

    @torch.no_grad()
    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        self.samples += self.task.size(batch["inputs"])
        self.network.eval()
        return predicted(self.task, self.network, batch["inputs"], self.capture)

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def close(self) -> None:
        pass


class Peers:
    """Networks that learn beside a student as its teachers (arXiv 1706.00384): what they say of a batch as they are at that moment, in
    training mode, without a gradient. Statistics that they keep stay as they were. `follow` brings the networks."""

    fingerprint = "peers"

    def __init__(self, task: Any):
        self.task, self.samples = task, 0
        self.networks: list[tuple[nn.Module, Capture | None]] = []

    def follow(self, networks: Sequence[tuple[nn.Module, Capture | None]]) -> None:
        """networks: with what is captured of each."""
        self.networks = list(networks)

    @torch.no_grad()
    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction | list[Prediction]:
        self.samples += self.task.size(batch["inputs"])
        said = []
        for network, capture in self.networks:
            before = [buffer.clone() for buffer in network.buffers()]
            said.append(predicted(self.task, network, batch["inputs"], capture))
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)
        return said if len(said) > 1 else said[0]

    @property
    def batch_statistics(self) -> bool:
        """Whether one of them normalises by statistics of the batch."""
        return any(isinstance(part, _BatchNorm) for network, _ in self.networks for part in network.modules())

    def to(self, device: torch.device) -> None:
        pass  # they are where their learners are

    def close(self) -> None:
        pass


class SeveralTeachers:
    """Teachers that teach at the same time.

    drop: probability of each to be left out of a step (arXiv 2009.08825); a function of (seed, step), the same on all
    ranks and after a resume. If all would be left out, one stays.
    """

    def __init__(self, teachers: list[TeacherSource], drop: float = 0.0, seed: int = 0):
        self.teachers, self.drop, self.seed = teachers, drop, seed
        self.fingerprint = "+".join(teacher.fingerprint for teacher in teachers)

    def present(self, step: int) -> list[int]:
        """Numbers of the teachers that teach in this step."""
        if not self.drop:
            return list(range(len(self.teachers)))
        draw = np.random.default_rng((self.seed, step))
        kept = np.flatnonzero(draw.random(len(self.teachers)) >= self.drop).tolist()
        return kept or [int(draw.integers(len(self.teachers)))]

    def outputs(self, batch: dict[str, Any], step: int = 0) -> list[Prediction]:
        return [cast(Prediction, self.teachers[number].outputs(batch)) for number in self.present(step)]

    @property
    def batch_statistics(self) -> bool:
        """Of any of them."""
        return any(getattr(teacher, "batch_statistics", False) for teacher in self.teachers)

    @property
    def samples(self) -> int:
        """Mean over the teachers: times the FLOPs of all, it is what they cost."""
        return round(sum(teacher.samples for teacher in self.teachers) / len(self.teachers))

    def to(self, device: torch.device) -> None:
        for teacher in self.teachers:
            teacher.to(device)

    def close(self) -> None:
        for teacher in self.teachers:
            teacher.close()


def _drops(module: nn.Module) -> bool:
    """Whether a module drops something in training: nn.Dropout and its kin, or a `dropout` or `drop_prob` of its own (attention
    weights, layers of recurrent networks, residual branches)."""
    names = ("p",) if isinstance(module, _DropoutNd) else ("dropout", "drop_prob")
    values = (getattr(module, name, None) for name in names)
    return any(isinstance(value, float) and value > 0 for value in values)


def _stay(module: nn.Module) -> Callable[..., nn.Module]:
    return lambda mode=True: module


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names and bytes of tensors (a network's `state_dict()`, say); of sharded ones over the part of this rank."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        part = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        flat = part.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def as_seen(inputs: Any, normalize: Mapping[str, Tensor] | None) -> Any:
    """Inputs (of conversations: their pixels) under the scale and shift of `renormalisation`; unchanged where it is None."""
    if normalize is None:
        return inputs
    if isinstance(inputs, Mapping):
        pixels = inputs.get("pixel_values")
        return inputs if pixels is None else {**inputs, "pixel_values": as_seen(pixels, normalize)}
    shape = (-1, *(inputs.dim() - 2) * (1,))
    scale, shift = (normalize[key].to(inputs.device).view(shape) for key in ("scale", "shift"))
    return inputs * scale + shift


def renormalisation(student: Sequence[Any], teacher: dict[str, list[float]] | None) -> dict[str, Tensor] | None:
    """Scale and shift from the student's normalised inputs to the teacher's.

    With x = (raw - m_s) / d_s the teacher needs (raw - m_t) / d_t = x * d_s / d_t + (m_s - m_t) / d_t.
    """
    if teacher is None:
        return None
    mean, deviation = (torch.tensor(values, dtype=torch.float32) for values in student)
    other_mean, other_deviation = torch.tensor(teacher["mean"]), torch.tensor(teacher["std"])
    return {"scale": deviation / other_deviation, "shift": (mean - other_mean) / other_deviation}
