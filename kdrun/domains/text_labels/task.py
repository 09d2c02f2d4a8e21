"""Texts in, for each of C labels whether it applies."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torchmetrics import MetricCollection

from kdrun.domains.guess import Guess
from kdrun.domains.task import Batch, Prediction, Task, Tensors
from kdrun.domains.text.task import TYPICAL_TOKENS, OfTexts
from kdrun.domains.text_labels.scores import LabelScores
from kdrun.networks.output import logits_of


class _Labels(Task):
    """Named tensors of several labels a sample. They have names of their own, so that a term of classes, of which one is right, is refused."""

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """student_label_logits and teacher_label_logits [B, C], targets [B, C] of 0 and 1."""
        return {
            "student_label_logits": student.logits,
            "teacher_label_logits": None if teacher is None else teacher.logits,
            "targets": batch["targets"],
        }


class TextLabels(OfTexts, _Labels, kind="text_labels"):
    """Several labels a text, with the labels of a LabelledTextSpec, each a decision of its own."""

    TYPICAL_TOKENS = TYPICAL_TOKENS

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def predict(self, network: nn.Module, inputs: dict[str, torch.Tensor]) -> Prediction:
        """Raises ValueError where the output is not [B, C]."""
        outputs, expected = logits_of(network(**inputs)), (self.size(inputs), self.spec.outputs)
        if outputs.shape != expected:
            raise ValueError(
                f"{type(network).__name__} returned {tuple(outputs.shape)}, expected {expected}: {self.spec.outputs} "
                f"{self.spec.says} of each text"
            )
        return Prediction(outputs)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"scores": LabelScores()})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        metrics["scores"].update(*self.judged(prediction, batch))

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(16, self.spec.outputs, generator=generator)
        return logits, (torch.rand(logits.shape, generator=generator) < 0.5).float()

    def rows(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        """{"id", "target", "predicted"} of each sample: positions of the labels that apply, and that are said to."""
        columns = [batch["ids"][batch["mask"]].tolist()]
        columns += [
            [row.nonzero().flatten().tolist() for row in part > 0] for part in self.judged(prediction, batch)[::-1]
        ]
        return [dict(zip(("id", "target", "predicted"), row, strict=True)) for row in zip(*columns, strict=True)]

    def rights(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        """A sample is right where every label is."""
        rows = self.rows(prediction, batch)
        return [{"id": row["id"], "right": int(row["target"] == row["predicted"])} for row in rows]

    def outcomes(self, prediction: Prediction) -> list[dict[str, Any]]:
        """{"class": the labels that apply, with a bar between them, "probability": of all these decisions together, "labels",
        "probabilities": {label: of each}}."""
        found = []
        for row in prediction.logits.detach().float().sigmoid().tolist():
            shares = dict(zip(self.spec.classes, row, strict=True))
            names = [name for name, share in shares.items() if share > 0.5]
            sure = math.prod(max(share, 1 - share) for share in row)
            found.append({"class": "|".join(names), "probability": sure, "labels": names, "probabilities": shares})
        return found

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """The best F1 of always naming the same labels, which are the commonest ones. By chance a network passes it by about two
        standard deviations of a share over as many samples."""
        known = torch.cat(targets) > 0
        counts, total = known.sum(0).sort(descending=True).values, int(known.sum())
        number = torch.arange(1, len(counts) + 1)
        best = float((2 * counts.cumsum(0) / (total + number * len(known))).max()) if total else 0.0
        return Guess(
            best, best + 1.96 * math.sqrt(best * (1 - best) / len(known)), "always naming the commonest labels"
        )
