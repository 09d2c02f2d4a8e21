"""Scores of a network that learned tasks one after another: the matrix A[t, j], and what is computed from it.

Row t: after task t (row 0: before the first one); column j: on the test set of task j.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Matrix = Sequence[Sequence[float]]

AVERAGE, FORGETTING, BACKWARD, FORWARD = "average", "forgetting", "backward_transfer", "forward_transfer"
TRANSFER = (FORGETTING, BACKWARD, FORWARD)


def transfer_of(matrix: Matrix, better: str = "max") -> dict[str, float]:
    """The scores of a matrix [N + 1, N] that has a row before the first task and one after each of N.

    average            mean_j A[N, j]
    forgetting         mean over j < N of max_{0 < t < N} A[t, j] - A[N, j]  (Chaudhry et al. 2018, arXiv 1801.10112, section 3.2)
    backward_transfer  mean over j < N of A[N, j] - A[j, j]  (Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 3)
    forward_transfer   mean over j > 1 of A[j - 1, j] - A[0, j]  (likewise, equation 4)

    better: "max" or "min" of the score; where less is better, signs are turned, so that more forgetting is always worse and more
    transfer better. With one task, or where networks were not looked at after each (another number of rows), there is the average alone.
    """
    count = len(matrix[0])
    scores = {AVERAGE: statistics.fmean(matrix[-1])}
    if len(matrix) != count + 1 or count < 2:
        return scores
    sign = 1 if better == "max" else -1
    signed = [[sign * value for value in row] for row in matrix]
    before = range(count - 1)
    most = [max(row[j] for row in signed[1:-1]) for j in before]
    return {
        **scores,
        FORGETTING: statistics.fmean(most[j] - signed[-1][j] for j in before),
        BACKWARD: statistics.fmean(signed[-1][j] - signed[j + 1][j] for j in before),
        FORWARD: statistics.fmean(signed[j][j] - signed[0][j] for j in range(1, count)),
    }


def over_seeds(matrices: Sequence[Mapping[str, Any]], metric: str) -> list[list[float]] | None:
    """The mean matrix of a metric over what several seeds recorded ("metrics": metric -> matrix); None where they differ in form, or one
    lacks it."""
    known = [one.get("metrics", {}).get(metric) for one in matrices]
    if not known or None in known or len({(len(one), len(one[0])) for one in known}) > 1:
        return None
    return [
        [statistics.fmean(one[t][j] for one in known) for j in range(len(known[0][0]))] for t in range(len(known[0]))
    ]
