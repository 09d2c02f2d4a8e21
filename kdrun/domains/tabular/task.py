"""A row of numbers in, one number out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchmetrics import MetricCollection

from kdrun.domains.guess import Guess
from kdrun.domains.tabular.scores import RegressionScores
from kdrun.domains.tabular.spec import TableSpec
from kdrun.domains.task import Batch, Prediction, Task, Tensors
from kdrun.networks.output import called, logits_of


class Regression(Task, kind="regression"):
    """Regression of the standardised target of a TableSpec.

    A batch is {"inputs": float32 [B, F], "targets": float32 [B], ...}; every position counts, so there is no mask. What a
    network says of a sample stands where logits stand, [B, 1], in deviations of the target; objectives get it under a name of
    its own, so that a term of classes is refused.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec

    def predict(self, network: nn.Module, inputs: Any) -> Prediction:
        """One forward pass. Raises ValueError where the output is not [B, 1]."""
        output = logits_of(called(network, inputs))
        expected = (self.size(inputs), self.spec.outputs)
        if output.shape != expected:
            raise ValueError(
                f"{type(network).__name__} returned {tuple(output.shape)}, expected {expected}: one number per sample"
            )
        return Prediction(output)

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """student_outputs and teacher_outputs [B, 1], targets [B], mask (None: all count)."""
        return {
            "student_outputs": student.logits,
            "teacher_outputs": None if teacher is None else teacher.logits,
            "targets": batch["targets"],
            "mask": student.mask,
        }

    def metrics(self) -> MetricCollection:
        return MetricCollection({"scores": RegressionScores(self.spec.target_std)})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        metrics["scores"].update(prediction.logits.detach().float().squeeze(-1), batch["targets"])

    def judged(self, prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        unit, middle = self.spec.target_std, self.spec.target_mean
        outputs = prediction.logits.detach().float().squeeze(-1)
        return outputs * unit + middle, batch["targets"] * unit + middle

    def rows(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        """{"id", "output", "target"} of each sample, in units of the target."""
        columns = batch["ids"], *self.judged(prediction, batch)
        values = zip(*(column.tolist() for column in columns), strict=True)
        return [dict(zip(("id", "output", "target"), row, strict=True)) for row in values]

    def outcomes(self, prediction: Prediction) -> list[dict[str, Any]]:
        outputs = prediction.logits.detach().float().squeeze(-1) * self.spec.target_std + self.spec.target_mean
        return [{"value": value} for value in outputs.tolist()]

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """R2 of always naming the mean of these targets.

        R2 is at most the squared correlation, which times the samples is chi-squared where both are independent.
        """
        return Guess(0.0, 1.96**2 / sum(map(len, targets)), "always naming the mean")
