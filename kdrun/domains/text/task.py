"""Texts in, one of C classes out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassF1Score, MulticlassMatthewsCorrCoef

from kdrun.domains.images.task import Classification
from kdrun.domains.scores import RankedScores, class_scores
from kdrun.domains.task import Batch, Prediction, Tensors

TYPICAL_TOKENS = 64
MOST_CLASSES = 200
"""Of more classes records do not keep the scores of each."""


class OfTexts:
    """What tasks of texts have in common; see loader.TextLoader for what a batch is. Padding changes nothing: networks are given the mask
    of what is text."""

    spec: Any

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """As of the task without texts, and inside [B, L]: which tokens are no padding, for losses on the inside of networks."""
        inside = batch["inputs"]["attention_mask"]
        return {**super().tensors(batch, student, teacher), "mask": batch["mask"], "inside": inside}

    def count(self, batch: Batch) -> int:
        return int(batch["mask"].sum())

    def size(self, inputs: dict[str, torch.Tensor]) -> int:
        return len(inputs["input_ids"])

    def typical(self, network: nn.Module) -> object:
        """A text of TYPICAL_TOKENS tokens; without a mask, whose values transformers looks at."""
        ids = torch.zeros((1, min(TYPICAL_TOKENS, self.spec.max_length)), dtype=torch.int64, device="meta")
        return network(input_ids=ids, **({"token_type_ids": ids} if self.spec.pairs else {}))


class TextClassification(OfTexts, Classification, kind="text_classification"):
    """Single-label classification of texts with the classes of a ClassifiedTextSpec; see loader.TextLoader for what a batch is."""

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "scores": RankedScores(self.classes),
                "f1": MulticlassF1Score(self.classes, average="macro"),
                "mcc": MulticlassMatthewsCorrCoef(self.classes),
            }
        )

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        logits, targets = self.judged(prediction, batch)
        for metric in ("scores", "f1", "mcc"):
            metrics[metric].update(logits, targets)

    def rows(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        """{"id", "right", "target", "predicted"} of each sample: 0 or 1, and positions in the classes."""
        logits, targets = self.judged(prediction, batch)
        columns = targets.tolist(), logits.argmax(1).tolist()
        said = zip(self.rights(prediction, batch), *columns, strict=True)
        return [{**row, "target": target, "predicted": predicted} for row, target, predicted in said]

    def row_scores(self, rows: list[dict[str, Any]], val_rows: list[dict[str, Any]]) -> dict[str, float]:
        """Precision, recall, F1 and support of each class (see scores.class_scores), of at most MOST_CLASSES classes."""
        return class_scores(rows, self.spec.classes) if self.classes <= MOST_CLASSES else {}

    def rights(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        real = batch["mask"].tolist()
        return [row for row, counts in zip(super().rights(prediction, batch), real, strict=True) if counts]
