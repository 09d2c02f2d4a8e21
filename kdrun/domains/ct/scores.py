"""The scores of a diagnosis: those of a classifier, and the AUC."""

import torch

from kdrun.domains.scores import RankedScores


class DiagnosisScores(RankedScores):
    """`auc` (the area of RankedScores), `accuracy`, `worst_class`, `loss` and `calibration`."""

    def compute(self) -> dict[str, torch.Tensor]:
        scores = super().compute()
        others = {name: scores[name] for name in ("accuracy", "worst_class", "loss", "calibration")}
        return {"auc": scores["auroc"], **others}
