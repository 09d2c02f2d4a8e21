"""What networks know of tones, and what is learned from them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torchmetrics import MetricCollection
from torchmetrics.aggregation import MeanMetric

from kdrun import kinds
from kdrun.domains.guess import largest_share
from kdrun.domains.spec import Blank, Spec
from kdrun.domains.task import Prediction, Task
from tonelab.source import RATE


@dataclass(frozen=True)
class ToneSpec(Spec):
    """Waveforms [1, samples] of pitches; mean and std: what they are normalised with."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int]
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    kind: ClassVar[str] = "tones"
    says: ClassVar[str] = "pitches"
    unit: ClassVar[str] = "tone"
    unchanged: ClassVar[tuple[str, ...]] = ("shape",)
    compared: ClassVar[tuple[str, ...]] = ("classes",)

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes

    def metadata(self) -> dict[str, Any]:
        lists = {name: list(getattr(self, name)) for name in ("classes", "shape", "mean", "std")}
        return {"kind": self.kind, "data": self.name, **lists}

    @classmethod
    def of(cls, metadata):
        classes, shape, mean, std = (tuple(metadata[name]) for name in ("classes", "shape", "mean", "std"))
        return cls(metadata["data"], classes, shape, {}, mean, std)

    def arguments(self) -> dict[str, Any]:
        return {"num_classes": self.outputs, "in_channels": self.shape[0], "rate": RATE}

    def blank(self) -> Blank:
        return Blank(torch.zeros(2, *self.shape), (2, self.outputs), f"tones of shape {self.shape}")


class Pitch(Task):
    """A batch is {"inputs": float32 [B, 1, T], "targets": int64 [B], ...}; logits are [B, pitches]."""

    METRICS = kinds.find("tones").metrics
    MAIN = PREFLIGHT = "pitch_accuracy"

    def __init__(self, spec):
        self.spec = spec

    def predict(self, network, inputs):
        return Prediction(network(inputs))

    def tensors(self, batch, student, teacher):
        return {
            "student_logits": student.logits,
            "teacher_logits": None if teacher is None else teacher.logits,
            "targets": batch["targets"],
            "mask": None,
        }

    def metrics(self):
        return MetricCollection({"pitch_accuracy": MeanMetric(), "loss": MeanMetric()})

    def update(self, metrics, prediction, batch):
        logits, targets = prediction.logits.detach().float(), batch["targets"]
        metrics["pitch_accuracy"].update((logits.argmax(1) == targets).float())
        metrics["loss"].update(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))

    def right(self, prediction, batch):
        return prediction.logits.argmax(1) == batch["targets"]

    def trivial(self, targets, right=None):
        return largest_share(targets, "always naming one pitch", right)
