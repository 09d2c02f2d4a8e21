"""The scores of a regression, from all samples seen together."""

import math

import numpy as np
import torch
from scipy.stats import rankdata
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class RegressionScores(Metric):
    """Errors of one number per sample; state is every output and target, gathered over ranks.

    unit: the deviation of the target, with which standardised values become those of the source.
    update(outputs float32 [B], targets float32 [B]), both standardised; compute() gives float64 scalars:
    rmse: root of the mean squared error, in units of the target.
    mae: mean absolute error, in units of the target.
    r2: 1 - sum of squared errors / sum of squares around the mean of these targets; at most 1, and negative for what is worse
        than that mean. NaN where all targets are equal.
    loss: mean squared error of the standardised values, which is what training minimises.
    All are NaN before any sample and as soon as one value is not finite. Sums are those of exact arithmetic, rounded once,
    so batches, ranks and the order of samples change no digit.
    """

    full_state_update = False

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit
        for name in ("every_output", "every_target"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.every_output.append(outputs)
        self.every_target.append(targets)

    def compute(self) -> dict[str, torch.Tensor]:
        found = dict.fromkeys(("rmse", "mae", "r2", "loss"), math.nan)
        if len(self.every_output):  # a tensor once ranks were gathered
            outputs, targets = (
                dim_zero_cat(state).cpu().double().tolist() for state in (self.every_output, self.every_target)
            )
            if outputs and all(map(math.isfinite, (*outputs, *targets))):
                found = scores(outputs, targets, self.unit)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


def scores(outputs: list[float], targets: list[float], unit: float) -> dict[str, float]:
    """rmse, mae, r2 and loss of at least one sample (see RegressionScores)."""
    errors = [output - target for output, target in zip(outputs, targets, strict=True)]
    mean = math.fsum(targets) / len(targets)
    squared, around = (math.fsum(value * value for value in values) for values in (errors, [t - mean for t in targets]))
    loss = squared / len(errors)
    return {
        "rmse": unit * math.sqrt(loss),
        "mae": unit * math.fsum(map(abs, errors)) / len(errors),
        "r2": 1 - squared / around if around else math.nan,
        "loss": loss,
    }


class CorrelationScores(RegressionScores):
    """RegressionScores, and the correlation of outputs and targets: NaN where either are all equal, or one value is not finite.

    pearson: of the values; spearman: of their ranks, equal values having the mean of theirs.
    """

    def compute(self) -> dict[str, torch.Tensor]:
        values = dict.fromkeys(("spearman", "pearson"), math.nan)
        if len(self.every_output):
            pair = [dim_zero_cat(state).cpu().double().numpy() for state in (self.every_output, self.every_target)]
            if all(np.isfinite(one).all() and np.ptp(one) > 0 for one in pair):
                values = {"spearman": _correlation(*map(rankdata, pair)), "pearson": _correlation(*pair)}
        return {**{name: torch.tensor(one, dtype=torch.float64) for name, one in values.items()}, **super().compute()}


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, of sums that are rounded once."""
    first, second = (one - math.fsum(one) / len(one) for one in (first, second))
    return math.fsum(first * second) / math.sqrt(math.fsum(first**2) * math.fsum(second**2))
