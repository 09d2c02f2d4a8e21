"""Texts in, one number out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torchmetrics import MetricCollection

from kdrun.domains.guess import Guess
from kdrun.domains.tabular.scores import CorrelationScores
from kdrun.domains.tabular.task import Regression
from kdrun.domains.task import Batch, Prediction
from kdrun.domains.text.task import OfTexts


class TextRegression(OfTexts, Regression, kind="text_regression"):
    """Regression of the standardised target of a NumberedTextSpec, as of tables."""

    def metrics(self) -> MetricCollection:
        return MetricCollection({"scores": CorrelationScores(self.spec.target_std)})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        real = batch["mask"]
        metrics["scores"].update(prediction.logits.detach().float().squeeze(-1)[real], batch["targets"][real])

    def judged(self, prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, targets = super().judged(prediction, batch)
        return outputs[batch["mask"]], targets[batch["mask"]]

    def rows(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        return super().rows(prediction, {**batch, "ids": batch["ids"][batch["mask"]]})

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """No order at all: of independent numbers the correlation of ranks has the standard deviation 1 / sqrt(n - 1)."""
        return Guess(0.0, 1.96 / math.sqrt(max(sum(map(len, targets)) - 1, 1)), "naming one number for all")
