"""What a stage kept of single test samples, and how far a difference between two arms depends on which samples they are.

    samples.<split>.jsonl   one mapping per sample of a test set: "id", and what the task tells of it (of the selected epoch)
    samples.selection.jsonl of a validation sample: "id", and how right ("best", "last") the selected and the last epoch are of it

Seeds say how far a result depends on chance in training; these intervals say how far it depends on the test set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.checksums import belongs
from kdrun.files import write_atomic

if TYPE_CHECKING:
    import numpy as np

    from kdrun.auc import Ranked

SELECTION = "selection"
DRAWS = 1000
AUC_DRAWS = 2000
AT_ONCE = 1 << 18
"""Samples times draws that are weighed together: two megabytes, which caches hold."""
TRIES = 100
"""Draws for each that counts, before a class is too rare for a bootstrap."""


def write_samples(folder: Path, split: str, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(folder / f"samples.{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_samples(folder: str | Path, split: str = "test") -> list[dict[str, Any]]:
    """The rows in the order of their ids; empty where the stage kept none. Damaged where they are not what it kept."""
    path = Path(folder) / f"samples.{split}.jsonl"
    if not path.is_file() or not belongs(path):
        return []
    with path.open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def resampled(
    first: Sequence[str | Path], second: Sequence[str | Path], draws: int | None = None
) -> dict[str, dict[str, Any]]:
    """{metric: comparison} of two arms from their stages' folders, one pair for each seed; {} where no samples were kept.

    See `paired_bootstrap` (1,000 draws) and, for rows with probabilities, `_auc_differences` (2,000 draws). Raises
    ValueError where the two arms were not tested on the same samples.
    """
    rows = [(read_samples(one), read_samples(two)) for one, two in zip(first, second, strict=True)]
    if not rows or not all(one and two for one, two in rows):
        return {}
    ids = [[tuple(row["id"] for row in side) for side in pair] for pair in rows]
    if any(one != two for one, two in ids):
        raise ValueError("two arms can be compared by samples only where both were tested on the same ones")
    if len({one for one, _ in ids}) > 1:  # seeds.vary=[student,split]: each seed has test samples of its own
        return {}
    if {"probabilities", "members"} & rows[0][0][0].keys():
        return _auc_differences(rows, draws or AUC_DRAWS)
    found = {}
    for metric, (statistics, score) in _scores(rows[0][0][0]).items():
        sides = [[statistics(side) for side in pair] for pair in rows]
        one, two = ([pair[side] for pair in sides] for side in (0, 1))
        found[metric] = paired_bootstrap(one, two, score, draws or DRAWS)
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
    return _comparison(observed, differences, number)


def _comparison(observed: float, differences: np.ndarray, samples: int) -> dict[str, Any]:
    """What `paired_bootstrap` returns, from the difference on all samples and those of the draws."""
    import numpy as np

    low, high = np.percentile(differences, [2.5, 97.5])
    # A tenth of a billionth: differences that are equal but for rounding count as equal.
    further = int((np.abs(differences - observed) >= abs(observed) - 1e-10).sum())
    return {
        "mean": observed,
        "interval": [float(low), float(high)],
        "p_value": (further + 1) / (len(differences) + 1),
        "samples": samples,
        "draws": len(differences),
    }


def _scores(row: Mapping[str, Any]) -> dict[str, tuple[Callable[[list], np.ndarray], Callable[[np.ndarray], float]]]:
    """metric -> (rows to counts per sample, summed counts to a share in 0..1), by what the rows hold."""
    import numpy as np

    if "counts" in row:
        from kdrun.domains.translation.scores import FIELDS, scores

        def counts(rows: list) -> np.ndarray:
            return np.asarray([row["counts"] for row in rows], dtype=np.int64)

        return {name: (counts, lambda totals, name=name: scores(totals, [name])[name] / 100) for name in FIELDS}
    if "right" in row:

        def right(rows: list) -> np.ndarray:
            return np.asarray([[row["right"], 1.0] for row in rows])

        return {"accuracy": (right, lambda totals: float(totals[0] / totals[1]))}
    return {}


Side = list[dict[str, Any]]


def _auc_differences(rows: Sequence[tuple[Side, Side]], draws: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """{metric: comparison} of AUC, from (rows of the first system, rows of the second) for each seed.

    rows: with "target" and "probabilities" [C], or with "members" {view: [C]}, "counted" [views] and perhaps "combined" [C]
    metrics: "auc", of members a mean over the views that count; "auc/<view>" and "auc/combined" where all have them

    A comparison is as in `paired_bootstrap`. AUC is no function of sums over samples, so each draw weighs samples by how
    often it has them. A draw that lacks a class is drawn again; where that is hardly ever met, or where an AUC is not
    known, there is no comparison. Two-class data has "delong" as well: that of each seed (see auc.delong), for metrics
    that are the AUC of one score.
    """
    import numpy as np

    from kdrun.auc import Ranked, delong

    targets = np.asarray([row["target"] for row in rows[0][0]])
    if any([row["target"] for row in side] != targets.tolist() for pair in rows for side in pair):
        raise ValueError("two arms can be compared by samples only where these have the same targets in both")
    scores = [[_score_sets(side) for side in pair] for pair in rows]
    ranked = [[{name: Ranked(targets, array) for name, array in side.items()} for side in pair] for pair in scores]
    means = [_averaged(*pair) for pair in rows]
    shared = [name for name in scores[0][0] if all(name in side for pair in scores for side in pair)]
    names = list(dict.fromkeys([*(["auc"] if all(one and two for one, two in means) else []), *shared]))
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for weights in _draws_with_all_classes(targets, draws, seed):
        if weights is None:
            return {}
        parts = [
            [_aucs(side, mean, weights) for side, mean in zip(*both, strict=True)]
            for both in zip(ranked, means, strict=True)
        ]
        for name in names:
            found[name].append(np.mean([one[name] - two[name] for one, two in parts], axis=0))
    comparisons = {}
    for name in names:
        observed, *differences = np.concatenate(found[name]).tolist()
        if not math.isfinite(observed):
            continue
        comparisons[name] = _comparison(observed, np.asarray(differences), len(targets))
        if name in shared and all(side[name].shape[1] == 2 for pair in scores for side in pair):
            comparisons[name]["delong"] = [delong(targets, one[name][:, 1], two[name][:, 1]) for one, two in scores]
    return comparisons


def _aucs(side: Mapping[str, Ranked], mean: Sequence[str], weights: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: AUC [D]} under weights [N, D]; "auc" is a mean over those that `mean` names."""
    import numpy as np

    found = {name: one.auc(weights) for name, one in side.items()}
    return {**found, "auc": np.mean([found[name] for name in mean], axis=0)} if mean else found


def _score_sets(rows: Side) -> dict[str, np.ndarray]:
    """{"auc": probabilities [N, C]}, or {"auc/<view>": ..., "auc/combined": ...} of members."""
    import numpy as np

    if "probabilities" in rows[0]:
        return {"auc": np.asarray([row["probabilities"] for row in rows])}
    found = {f"auc/{view}": np.asarray([row["members"][view] for row in rows]) for view in rows[0]["members"]}
    if rows[0].get("combined"):
        found["auc/combined"] = np.asarray([row["combined"] for row in rows])
    return found


def _averaged(first: Side, second: Side) -> tuple[list[str], list[str]]:
    """What "auc" is a mean over, on either side: the same views, those that count in the first and are in the second."""
    one, two = first[0], second[0]
    if "members" in one and "members" in two:
        same = [f"auc/{view}" for view in one["counted"] if view in two["members"]]
        return same, same
    return tuple([f"auc/{view}" for view in row["counted"]] if "members" in row else ["auc"] for row in (one, two))


def _draws_with_all_classes(targets: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray | None]:
    """How often each draw with replacement has each sample, int64 [N, some draws], in pieces; all samples once come first.

    Ends with None where TRIES times as many draws do not give enough that have all classes of the targets.
    """
    import numpy as np

    number, random, left = len(targets), np.random.default_rng(seed), TRIES * draws
    classes = np.unique(targets, return_inverse=True)[1]
    piece, given, most = [np.ones(number, dtype=np.int64)], 0, max(8, AT_ONCE // number)
    while given <= draws:
        if len(piece) == min(most, draws + 1 - given):
            yield np.stack(piece, axis=1)
            given += len(piece)
            piece = []
            continue
        if not left:
            yield None
            return
        left -= 1
        times = np.bincount(random.integers(number, size=number), minlength=number)
        if np.bincount(classes, weights=times).all():
            piece.append(times)
