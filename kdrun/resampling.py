"""What a stage kept of single test samples, and how far a difference between two arms depends on which samples they are.

    samples.<split>.jsonl   one mapping per sample of a test set: "id", and what the task tells of it (of the selected epoch)

Seeds say how far a result depends on chance in training; these intervals say how far it depends on the test set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.files import write_atomic

if TYPE_CHECKING:
    import numpy as np

DRAWS = 1000


def write_samples(folder: Path, split: str, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(folder / f"samples.{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_samples(folder: str | Path, split: str = "test") -> list[dict[str, Any]]:
    """The rows in the order of their ids; empty where the stage kept none."""
    path = Path(folder) / f"samples.{split}.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def resampled(
    first: Sequence[str | Path], second: Sequence[str | Path], draws: int = DRAWS
) -> dict[str, dict[str, Any]]:
    """{metric: comparison} of two arms from their stages' folders, one pair for each seed; {} where no samples were kept.

    See `paired_bootstrap`. Raises ValueError where the two arms were not tested on the same samples.
    """
    rows = [(read_samples(one), read_samples(two)) for one, two in zip(first, second, strict=True)]
    if not rows or not all(one and two for one, two in rows):
        return {}
    if len({tuple(row["id"] for row in side) for pair in rows for side in pair}) > 1:
        raise ValueError("two arms can be compared by samples only where both were tested on the same ones")
    found = {}
    for metric, (statistics, score) in _scores(rows[0][0][0]).items():
        sides = [[statistics(side) for side in pair] for pair in rows]
        found[metric] = paired_bootstrap([one for one, _ in sides], [two for _, two in sides], score, draws)
    return found


def paired_bootstrap(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    score: Callable[[np.ndarray], float],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Whether the first system scores otherwise than the second, on test sets drawn with replacement (Koehn 2004).

    first, second: whole numbers [samples, counts], one array for each seed, samples in the same order everywhere
    score: a score from the sum [counts] over samples

    Returns {"mean": first minus second, a mean over seeds, "interval": 95 %, percentiles of the draws, "p_value": share of
    draws at least as far from the mean as that is from zero (two-sided, never quite 0), "samples", "draws"}.
    All seeds and both systems get the same draw, so that what is hard for both does not count as spread.
    """
    import numpy as np

    number = len(first[0])
    if not number or len({array.shape for array in (*first, *second)}) > 1:
        raise ValueError("systems can be compared on the same samples only, and on one at least")
    random = np.random.default_rng(seed)
    observed = float(np.mean([score(one.sum(0)) - score(two.sum(0)) for one, two in zip(first, second, strict=True)]))
    differences = np.empty(draws)
    for draw in range(draws):
        times = np.bincount(random.integers(number, size=number), minlength=number)
        differences[draw] = np.mean(
            [score(times @ one) - score(times @ two) for one, two in zip(first, second, strict=True)]
        )
    low, high = np.percentile(differences, [2.5, 97.5])
    # A tenth of a billionth: differences that are equal but for rounding count as equal.
    further = int((np.abs(differences - observed) >= abs(observed) - 1e-10).sum())
    return {
        "mean": observed,
        "interval": [float(low), float(high)],
        "p_value": (further + 1) / (draws + 1),
        "samples": number,
        "draws": draws,
    }


def _scores(row: Mapping[str, Any]) -> dict[str, tuple[Callable[[list], np.ndarray], Callable[[np.ndarray], float]]]:
    """metric -> (rows to counts per sample, summed counts to a share in 0..1), by what the rows hold."""
    import numpy as np

    if "counts" in row:
        from kdrun.tasks.text_scores import FIELDS, scores

        def counts(rows: list) -> np.ndarray:
            return np.asarray([row["counts"] for row in rows], dtype=np.int64)

        return {name: (counts, lambda totals, name=name: scores(totals, [name])[name] / 100) for name in FIELDS}
    if "right" in row:

        def right(rows: list) -> np.ndarray:
            return np.asarray([[row["right"], 1.0] for row in rows])

        return {"accuracy": (right, lambda totals: float(totals[0] / totals[1]))}
    return {}
