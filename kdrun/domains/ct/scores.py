"""The scores of a diagnosis: those of a classifier, and the AUC, for which all samples have to be seen together."""

import math

import torch
from torchmetrics.utilities import dim_zero_cat

from kdrun.auc import macro_auc, nine_digits
from kdrun.domains.scores import ClassificationScores


class DiagnosisScores(ClassificationScores):
    """`auc` beside ClassificationScores; state is also every logit and target, gathered over ranks.

    update(logits float32 [B, C], targets int64 [B]); compute() gives scalars, NaN before any sample:
    auc: see auc.macro_auc, of `probabilities`, in float64; NaN where fewer than two classes occur or a logit is NaN.
    The order of samples does not matter, so batches and ranks change no digit.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        for name in ("every_logit", "every_target"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        super().update(logits, targets)
        self.every_logit.append(logits)
        self.every_target.append(targets)

    def compute(self) -> dict[str, torch.Tensor]:
        found = math.nan
        if len(self.every_logit):  # a tensor once ranks were gathered
            found = macro_auc(
                dim_zero_cat(self.every_target).cpu().numpy(), probabilities(dim_zero_cat(self.every_logit))
            )
        scores = super().compute()
        return {
            "auc": torch.tensor(found, dtype=torch.float64),
            **{name: scores[name] for name in ("accuracy", "worst_class", "loss", "calibration")},
        }


def probabilities(logits: torch.Tensor):
    """Softmax of logits [B, C] as numpy float64 [B, C], to nine significant digits: what is kept and what is judged."""
    return nine_digits(logits.detach().float().cpu().double().softmax(1).numpy())
