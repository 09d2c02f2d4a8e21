"""What a stage kept of single test samples, and how far a difference between two arms depends on which samples they are.

    samples.<split>.jsonl        one mapping per sample of a test set: "id", and what the task tells of it (of the selected epoch)
    samples-last.<split>.jsonl   the same of the last epoch, where that is another one
    samples.written-<split>.jsonl  {"id", "prompt", "reference", "text"} of prompts of a test set, where a network writes
    samples.selection.jsonl      of a validation sample: "id", and how right ("best", "last") the selected and the last epoch are

Seeds say how far a result depends on chance in training, samples how far it depends on the test set: intervals here have both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.checksums import belongs
from kdrun.differences import SAMPLES, TWO_LEVEL, interval_of, p_value_of
from kdrun.files import write_atomic

if TYPE_CHECKING:
    import numpy as np

    from kdrun.auc import Ranked
    from kdrun.domains.rows import Sums

SELECTION, WRITTEN = "selection", "written"
DRAWS = 1000
AUC_DRAWS = 2000
AT_ONCE = 1 << 18
"""Samples times draws that are weighed together: two megabytes, which caches hold."""
Side = list[dict[str, Any]]
"""What a stage kept of the samples of a test set, in the order of their ids."""
TRIES = 100
"""Draws for each that counts, before a class is too rare for a bootstrap."""


def _file(folder: str | Path, split: str, last: bool) -> Path:
    return Path(folder) / f"samples{'-last' if last else ''}.{split}.jsonl"


def write_samples(folder: Path, split: str, rows: Iterable[Mapping[str, Any]], last: bool = False) -> None:
    write_atomic(_file(folder, split, last), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_samples(folder: str | Path, split: str = "test", last: bool = False) -> list[dict[str, Any]]:
    """The rows in the order of their ids; empty where the stage kept none. Damaged where they are not what it kept. last: of the last
    epoch, where the selected one is another (see `has_own_last`)."""
    path = _file(folder, split, last)
    if not path.is_file() or not belongs(path):
        return []
    with path.open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def has_own_last(record: Mapping[str, Any]) -> bool:
    """Whether the last epoch of a stage is another than the selected one, and its rows lie in a file of their own."""
    return record["val"].get("epoch_best") not in (None, (record["val"].get("epochs") or 0) - 1)


def resampled(
    pairs: Sequence[tuple[Side, Side]],
    sums: Callable[[Mapping[str, Any]], Mapping[str, Sums]],
    draws: int | None = None,
) -> dict[str, dict[str, Any]]:
    """{metric: comparison} of two arms over seeds and test samples together, from (rows of the first, rows of the second) for each
    seed; {} where a stage kept no rows.

    sums: how rows become scores, by one of them (Domain.sums). See `compared` (1,000 draws) and, for rows with probabilities,
    `_auc_differences` (2,000 draws). Raises ValueError where the two arms were not tested on the same samples.
    """
    if not pairs or not all(one and two for one, two in pairs):
        return {}
    ids = [[tuple(row["id"] for row in side) for side in pair] for pair in pairs]
    if any(one != two for one, two in ids):
        raise ValueError("two arms can be compared by samples only where both were tested on the same ones")
    if len({one for one, _ in ids}) > 1:  # seeds.vary=[student,split]: each seed has test samples of its own
        return {}
    first = pairs[0][0][0]
    found = {name: compared(pairs, one, draws or DRAWS) for name, one in sums(first).items()}
    of_classes = {"probabilities", "members"} & first.keys()
    return {
        **(_auc_differences(pairs, draws or AUC_DRAWS) if of_classes else {}),
        **{name: one for name, one in found.items() if one is not None},
    }


def compared(
    pairs: Sequence[tuple[Side, Side]], sums: Sums, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any] | None:
    """How one score of the first arm differs from that of the second, over seeds and over test sets drawn with replacement.

    All seeds and both arms get the same draws (Koehn 2004), so that what is hard for both does not count as spread.
    Returns what `two_levels` does; None where a score is not finite, as R2 of equal targets. Draws of which that is so are left out.
    """
    import numpy as np

    sides = [sums.numbers(side) for pair in pairs for side in pair]
    number = len(sides[0])
    if not number or len({side.shape for side in sides}) > 1:
        raise ValueError("systems can be compared on the same samples only, and on one at least")
    table, random = np.concatenate(sides, axis=1), np.random.default_rng(seed)
    found, left = [np.ones((1, number))], draws
    while left:
        piece = min(left, max(8, AT_ONCE // number))
        drawn = random.integers(number, size=(piece, number))
        found.append(np.stack([np.bincount(one, minlength=number) for one in drawn]))
        left -= piece
    # One matrix product for each piece: the sums of every draw, of all seeds and both arms.
    scores = [
        np.stack([sums.score(part) for part in np.split(times @ table, len(sides), axis=1)], axis=1) for times in found
    ]
    scores = np.concatenate(scores)
    differences = scores[:, 0::2] - scores[:, 1::2]
    known = np.isfinite(differences).all(axis=1)
    return two_levels(differences[0], differences[1:][known[1:]], number) if known[0] and known[1:].any() else None


def two_levels(observed: np.ndarray, drawn: np.ndarray, samples: int) -> dict[str, Any]:
    """What a difference is, with chance in seeds and in test samples.

    observed: [n], the difference of each seed on all samples; drawn: [D, n], on D draws of samples

    Of one seed: {"mean", "interval": 95 %, percentiles of the draws, "p_value": share of draws at least as far from the mean as
    that is from zero (never quite 0), "samples", "draws", "method"}: nothing in it tells chance in training.

    Of several seeds: a two-level bootstrap (Davison and Hinkley 1997, section 3.8) with three parts of the variance of the mean,
    so that what seeds and samples have together (which seed is right on which sample) counts once, as it does in no plain
    resampling of both (Owen 2007, arXiv 0712.1111):
        seeds     s^2 / n of the observed differences; it has their part of what is together
        samples   variance over draws of the mean over seeds; it has that part as well
        together  how much more seeds differ on draws than on all samples: mean over draws of s^2 / n, minus the first
    variance = seeds + max(samples - together, 0), at least `samples`. The interval is Student's t with the degrees of freedom of
    Satterthwaite 1946 for the two; without any chance in samples it is that over seeds. "error", "degrees" and "seeds" are
    given as well.
    """
    import numpy as np

    mean, n = float(observed.mean()), len(observed)
    counts = {"samples": samples, "draws": len(drawn)}
    overall = drawn.mean(axis=1)
    if n < 2:
        low, high = np.percentile(overall, [2.5, 97.5])
        # A tenth of a billionth: differences that are equal but for rounding count as equal.
        further = int((np.abs(overall - mean) >= abs(mean) - 1e-10).sum())
        p = (further + 1) / (len(overall) + 1)
        return {"mean": mean, "interval": [float(low), float(high)], "p_value": p, **counts, "method": SAMPLES}
    seeds = float(observed.var(ddof=1)) / n
    of_samples = float(((overall - mean) ** 2).mean())
    together = max(float(drawn.var(axis=1, ddof=1).mean()) / n - seeds, 0.0)
    rest = max(of_samples - together, of_samples - seeds, 0.0)
    error = math.sqrt(seeds + rest)
    below = seeds**2 / (n - 1) + rest**2 / max(samples - 1, 1)
    degrees = (seeds + rest) ** 2 / below if below else float(n - 1)
    interval, p = interval_of(mean, error, degrees), p_value_of(mean, error, degrees)
    known = {"error": error, "degrees": degrees, "seeds": n}
    return {"mean": mean, "interval": list(interval), "p_value": p, **counts, **known, "method": TWO_LEVEL}


def _auc_differences(rows: Sequence[tuple[Side, Side]], draws: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """{metric: comparison} of AUC, from (rows of the first system, rows of the second) for each seed.

    rows: with "target" and "probabilities" [C], or with "members" {view: [C]}, "counted" [views] and perhaps "combined" [C]
    metrics: "auc", of members a mean over the views that count; "auc/<view>" and "auc/combined" where all have them

    A comparison is as in `two_levels`. AUC is no function of sums over samples, so each draw weighs samples by how
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
            found[name].append(np.stack([one[name] - two[name] for one, two in parts], axis=1))
    comparisons = {}
    for name in names:
        differences = np.concatenate(found[name])
        if not np.isfinite(differences[0]).all():
            continue
        comparisons[name] = two_levels(differences[0], differences[1:], len(targets))
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
