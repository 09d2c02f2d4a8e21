"""Images in, one of C classes out, judged by how well each class is told from the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kdrun.auc import at_threshold, youden
from kdrun.domains.ct.scores import DiagnosisScores
from kdrun.domains.guess import Guess, symmetric
from kdrun.domains.images.task import Classification
from kdrun.domains.scores import probabilities
from kdrun.domains.task import Batch, Prediction

Rows = Sequence[Mapping[str, Any]]


class Diagnosis(Classification, kind="diagnosis"):
    """Classification whose main score is the AUC, and which keeps what it says of single samples.

    A sample's row is {"id", "target", "probabilities": [C]}: what ensembles are made of and differences resampled over.
    """

    SCORES = DiagnosisScores
    KEEPS = ("val",)
    """Splits beside the test sets whose rows are kept: thresholds and stacks are fitted on them."""

    def rows(self, prediction: Prediction, batch: Batch) -> list[dict[str, Any]]:
        columns = (
            batch["ids"].tolist(),
            batch["targets"].tolist(),
            probabilities(self.known(prediction.logits)).tolist(),
        )
        return [dict(zip(("id", "target", "probabilities"), row, strict=True)) for row in zip(*columns, strict=True)]

    def row_scores(self, rows: Rows, val_rows: Rows) -> dict[str, float]:
        """{"sensitivity", "specificity", "threshold"} of the rows of two-class data, with the threshold of validation.

        The threshold has the largest Youden index on `val_rows`. What is not known is left out: everything where
        there are more classes or validation lacks one of the two, and a share of a class that the rows lack.
        """
        if self.classes != 2:
            return {}
        threshold = youden(*_two_classes(val_rows))
        if threshold is None:
            return {}
        found = (*at_threshold(*_two_classes(rows), threshold), threshold)
        named = zip(("sensitivity", "specificity", "threshold"), found, strict=True)
        return {name: value for name, value in named if value is not None}

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """The AUC of a guess that looks at no input: of each class against the rest it has the variance of a Mann-Whitney
        statistic; the deviation of their mean is at most the mean of theirs."""
        counts = torch.bincount(torch.cat(targets), minlength=self.classes).double()
        present, seen = counts[counts > 0], float(counts.sum())
        variances = (seen + 1) / (12 * present * (seen - present))
        return symmetric(0.5, float(variances.sqrt().mean()) if len(present) > 1 else math.nan, 1)


def _two_classes(rows: Rows) -> tuple[list[int], list[float]]:
    """Targets, and the probabilities of the second class."""
    return [row["target"] for row in rows], [row["probabilities"][1] for row in rows]
