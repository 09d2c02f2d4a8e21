"""How scores are made from what is kept of single test samples, where a score is a function of sums over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sums:
    """A score that depends on sums over samples alone.

    numbers  rows of N samples -> float64 [N, K]; whole numbers are exact
    score    sums over samples, float64 [D, K] for D sets of samples -> float64 [D], a share or in the unit of the metric
    """

    numbers: Callable[[Rows], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]


def mean_of(key: str) -> Sums:
    """The mean of what rows have under this key."""

    def numbers(rows: Rows) -> np.ndarray:
        import numpy as np

        return np.asarray([[row[key], 1.0] for row in rows], dtype=np.float64)

    return Sums(numbers, lambda sums: sums[:, 0] / sums[:, 1])
