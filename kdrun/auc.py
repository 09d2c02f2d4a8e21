"""The area under the ROC curve: exact, under weights, its difference between two systems, and thresholds. No torch.

AUC is the chance that a random positive sample scores above a random negative one, where equal scores count half
(Mann & Whitney 1947; Hanley & McNeil 1982). Of more than two classes it is one class against the rest, a mean over the
classes that occur, each with the same weight. Scores that are not finite give NaN.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

SEMANTICS = 1


def auc(targets: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """AUC of targets [N] of 0 and 1 and scores [N]; weights [N] count a sample several times or not at all.

    NaN where a class is absent. Takes O(N log N).
    """
    import numpy as np

    scores = np.asarray(scores, dtype=float)
    positive = np.asarray(targets).astype(bool)
    counted = np.ones(len(scores), dtype=np.int64) if weights is None else np.asarray(weights)
    if not len(scores) or positive.all() or not positive.any() or not np.isfinite(scores).all():
        return math.nan
    return float(_OneClass(positive, scores).auc(counted[:, None])[0])


def macro_auc(targets: ArrayLike, probabilities: ArrayLike) -> float:
    """AUC of targets int [N] and probabilities [N, C]; NaN where fewer than two classes occur.

    Of two classes it is the AUC of the second. A class that does not occur is in no mean (torchmetrics counts it as 0).
    """
    import numpy as np

    ranked = Ranked(targets, probabilities)
    return float(ranked.auc(np.ones((ranked.samples, 1), dtype=np.int64))[0])


class Ranked:
    """Scores sorted once, whose AUC is then found for many weightings of the samples, each in O(N C).

    targets        int [N]
    probabilities  [N, C], C >= 2
    """

    def __init__(self, targets: ArrayLike, probabilities: ArrayLike) -> None:
        import numpy as np

        targets, probabilities = np.asarray(targets), np.asarray(probabilities, dtype=float)
        self.samples = len(targets)
        found = np.unique(targets).tolist()
        self._classes: list[_OneClass] = []
        if len(found) > 1 and np.isfinite(probabilities).all():
            judged = [1] if probabilities.shape[1] == 2 else found
            self._classes = [_OneClass(targets == one, probabilities[:, one]) for one in judged]

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """[D] of weights [N, D]: NaN where a class that occurs in the targets has no weight at all."""
        import numpy as np

        if not self._classes:
            return np.full(weights.shape[1], math.nan)
        return np.mean([one.auc(weights) for one in self._classes], axis=0)


class _OneClass:
    """One class against the rest, both of which occur: which negatives lie below each positive."""

    def __init__(self, positive: np.ndarray, scores: np.ndarray) -> None:
        import numpy as np

        self.positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
        self.negatives = negatives[np.argsort(scores[negatives], kind="stable")]
        ranked = scores[self.negatives]
        below, not_above = (np.searchsorted(ranked, scores[self.positives], side) for side in ("left", "right"))
        # Sums over negatives are needed at these places only, which are few where positives are.
        self.places = np.unique(np.concatenate([[0], below, not_above, [len(ranked)]]))
        self.below, self.not_above = (np.searchsorted(self.places, places) for places in (below, not_above))

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """[D] of weights [N, D], whole numbers or floats."""
        import numpy as np

        kind = np.int64 if np.issubdtype(weights.dtype, np.integer) else np.float64
        positive = weights[self.positives].astype(kind)
        sums = np.zeros((len(self.places), weights.shape[1]), dtype=kind)
        parts = np.add.reduceat(weights[self.negatives], self.places[:-1], axis=0, dtype=kind)
        np.cumsum(parts, axis=0, out=sums[1:])
        twice = (positive * (sums[self.below] + sums[self.not_above])).sum(0)
        pairs = positive.sum(0) * sums[-1]
        return np.divide(twice, 2 * pairs, out=np.full(len(pairs), math.nan), where=pairs > 0)


def delong(targets: ArrayLike, first: ArrayLike, second: ArrayLike) -> dict[str, Any]:
    """The difference of two AUCs of the same samples, targets [N] of 0 and 1 and scores [N] of two systems.

    {"difference": first minus second, "interval": 95 %, "p_value": two-sided, of a normal distribution}, with the
    covariance of DeLong, DeLong & Clarke-Pearson (1988), eq. 5 to 7, from midranks (Sun & Xu 2014). Both AUCs being
    means over the same samples, it takes the variance of the difference of their structural components.

    Where the components do not differ at all (identical rankings) an unequal pair cannot be judged: the interval and
    the p-value are None, as where a class has fewer than two samples; of an equal pair they are [0, 0] and 1.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    positive = np.asarray(targets).astype(bool)
    (ones, zeros), (other_ones, other_zeros) = (_components(positive, np.asarray(s, float)) for s in (first, second))
    difference = float(np.mean(ones) - np.mean(other_ones)) if len(ones) and len(zeros) else math.nan
    unknown = {"difference": difference, "interval": None, "p_value": None}
    if min(len(ones), len(zeros)) < 2 or not math.isfinite(difference):
        return unknown
    variance = float(np.var(ones - other_ones, ddof=1) / len(ones) + np.var(zeros - other_zeros, ddof=1) / len(zeros))
    if variance < 1e-24:  # zero but for rounding
        alike = abs(difference) < 1e-12
        return {"difference": 0.0, "interval": [0.0, 0.0], "p_value": 1.0} if alike else unknown
    deviation = math.sqrt(variance)
    half = float(ndtri(0.975)) * deviation
    return {
        "difference": difference,
        "interval": [difference - half, difference + half],
        "p_value": float(2 * ndtr(-abs(difference) / deviation)),
    }


def _components(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    from scipy.stats import rankdata

    if not len(scores) or positive.all() or not positive.any():
        return scores[positive], scores[~positive]
    among_all = rankdata(scores)
    ones = (among_all[positive] - rankdata(scores[positive])) / (~positive).sum()
    zeros = 1 - (among_all[~positive] - rankdata(scores[~positive])) / positive.sum()
    return ones, zeros


def youden(targets: ArrayLike, scores: ArrayLike) -> float | None:
    """The threshold with the largest sensitivity + specificity - 1 (Youden 1950); None where a class is absent.

    targets [N] of 0 and 1, scores [N] in 0..1; scores from the threshold on are positive. It lies halfway between two
    neighbouring scores (with 0 below the lowest and 1 above the highest); of equally good ones it is that nearest to
    0.5, then the lowest. To be found on validation: on test it would choose.
    """
    import numpy as np

    positive, scores = np.asarray(targets).astype(bool), np.asarray(scores, dtype=float)
    if not len(scores) or positive.all() or not positive.any():
        return None
    values, places = np.unique(scores, return_inverse=True)
    ones, zeros = (np.bincount(places, weights=kind, minlength=len(values)) for kind in (positive, ~positive))
    # Whole numbers, times both class sizes, so that equally good thresholds are found to be equal.
    lost, kept = (np.concatenate([[0], np.cumsum(counts)]).astype(np.int64) for counts in (ones, zeros))
    index = kept * int(positive.sum()) - lost * int((~positive).sum())
    between = (values[:-1] + values[1:]) / 2
    between = np.where(between > values[:-1], between, values[1:])  # neighbouring floats have nothing between them
    above = max((values[-1] + 1) / 2, np.nextafter(values[-1], np.inf))
    thresholds = np.concatenate([[values[0] / 2], between, [above]])[index == index.max()]
    return float(thresholds[np.argmin(np.abs(thresholds - 0.5))])


def at_threshold(targets: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[float | None, float | None]:
    """(sensitivity, specificity) in 0..1 with scores from the threshold on called positive; None for an absent class."""
    import numpy as np

    positive, called = np.asarray(targets).astype(bool), np.asarray(scores, dtype=float) >= threshold
    return (
        float(called[positive].mean()) if positive.any() else None,
        float((~called[~positive]).mean()) if (~positive).any() else None,
    )


def nine_digits(probabilities: np.ndarray) -> np.ndarray:
    """Rounded to nine significant digits, as samples are kept: small probabilities keep their order and stay above 0."""
    import numpy as np

    flat = [float(f"{value:.9g}") for value in np.asarray(probabilities, dtype=float).ravel().tolist()]
    return np.asarray(flat).reshape(np.shape(probabilities))
