"""The scores of a diagnosis: those of a classifier, and the AUC."""

import torch

from kdrun.domains.scores import RankedScores


class DiagnosisScores(RankedScores):
    """`auc`, `accuracy`, `worst_class`, `loss` and `calibration` of RankedScores."""

    def compute(self) -> dict[str, torch.Tensor]:
        scores = super().compute()
        return {name: scores[name] for name in ("auc", "accuracy", "worst_class", "loss", "calibration")}
