"""The scores of several labels a sample, from all samples seen together."""

import math

import torch
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kdrun.auc import auc


class LabelScores(Metric):
    """State is every logit and target, gathered over ranks. A label applies where its logit is above 0.

    update(logits float32 [B, C], targets float32 [B, C] of 0 and 1); compute() gives float64 scalars, NaN before any sample:
    f1_micro: 2 hits / (labels + predictions), over all samples and labels; 0 where there is neither.
    f1: the mean over labels of the same, of labels that occur or are predicted.
    exact_match: share of samples of which every label is right.
    auroc: mean over labels of the area under the ROC curve, of labels that some samples have and some have not.
    loss: mean binary cross-entropy of a label in nats, which is what training minimises.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("every_logit", "every_target"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.every_logit.append(logits)
        self.every_target.append(targets)

    def compute(self) -> dict[str, torch.Tensor]:
        values = dict.fromkeys(("f1_micro", "f1", "exact_match", "auroc", "loss"), math.nan)
        if len(self.every_logit):
            logits, targets = (dim_zero_cat(state).cpu().double() for state in (self.every_logit, self.every_target))
            values |= scores(logits, targets)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def scores(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """Those of LabelScores, of float64 [N, C], N at least 1."""
    said, true = logits > 0, targets > 0
    hits, both = (said & true).sum(0), said.sum(0) + true.sum(0)
    seen = both > 0
    areas = [auc(one, scores) for one, scores in zip(true.T.numpy(), logits.T.numpy(), strict=True)]
    areas = [area for area in areas if not math.isnan(area)]
    return {
        "f1_micro": float(2 * hits.sum() / both.sum()) if seen.any() else 0.0,
        "f1": float((2 * hits[seen] / both[seen]).mean()) if seen.any() else 0.0,
        "exact_match": float((said == true).all(1).double().mean()),
        "auroc": math.fsum(areas) / len(areas) if areas else math.nan,
        "loss": float(functional.binary_cross_entropy_with_logits(logits, targets)),
    }
