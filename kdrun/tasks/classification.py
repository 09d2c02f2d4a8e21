"""Images in, one of C classes out."""

from types import MappingProxyType

import torch
from torch import nn
from torchmetrics import MetricCollection

from kdrun.data.spec import DataSpec
from kdrun.ledger.flops import forward_flops
from kdrun.networks.output import logits_of
from kdrun.tasks.base import Batch, Prediction, Tensors
from kdrun.tasks.scores import ClassificationScores


class Classification:
    """Single-label classification with the classes of a DataSpec.

    A batch is {"inputs": float [B, C, H, W], "targets": int64 [B], ...}; every position counts, so there is no mask.
    """

    METRICS = MappingProxyType(
        {"accuracy": "max", "top5": "max", "worst_class": "max", "loss": "min", "calibration": "min"}
    )

    MAIN = PREFLIGHT = "accuracy"

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self.classes = len(spec.classes)

    def predict(self, network: nn.Module, inputs: torch.Tensor) -> Prediction:
        """One forward pass. Raises ValueError where the logits are not [B, C] with the data's C."""
        logits = logits_of(network(inputs))
        expected = (inputs.shape[0], self.classes)
        if logits.shape != expected:
            raise ValueError(
                f"{type(network).__name__} returned logits of shape {tuple(logits.shape)}, expected {expected}: "
                f"{self.spec.name} has {self.classes} classes"
            )
        return Prediction(logits)

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """student_logits and teacher_logits [B, C], targets [B], mask (None: all count), features of the student."""
        return {
            **student.features,
            "student_logits": student.logits,
            "teacher_logits": None if teacher is None else teacher.logits,
            "targets": batch["targets"],
            "mask": student.mask,
        }

    def count(self, batch: Batch) -> int:
        """Samples in the batch."""
        return len(batch["targets"])

    def metrics(self) -> MetricCollection:
        """A fresh collection whose compute() has exactly the names of METRICS (see ClassificationScores)."""
        return MetricCollection({"scores": ClassificationScores(self.classes)})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        """Adds one batch; the logits are taken in float32 whatever the network computes in."""
        metrics.update(prediction.logits.detach().float(), batch["targets"])

    def evaluate(self, metrics: MetricCollection, network: nn.Module, batch: Batch, final: bool = False) -> None:
        """One forward pass says everything."""
        self.update(metrics, self.predict(network, batch["inputs"]), batch)

    def baselines(self) -> dict[str, dict[str, float]]:
        """None is shown: guessing is what `trivial` says."""
        return {}

    def notes(self) -> dict[str, str]:
        """Nothing to add."""
        return {}

    def size(self, inputs: torch.Tensor) -> int:
        """Images in the batch."""
        return len(inputs)

    def flops(self, network: nn.Module) -> int | None:
        """FLOPs of one image."""
        return forward_flops(network, self.spec.shape)

    def trivial(self, targets: list[torch.Tensor]) -> float:
        """Accuracy of always naming the largest class."""
        counts = torch.bincount(torch.cat(targets))
        return float(counts.max()) / int(counts.sum())
