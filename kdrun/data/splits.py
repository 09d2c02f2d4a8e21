"""Stratified splits and subsets: per class, the samples that come first in a random order of their ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.source import SPLITS, TEST, TRAIN, UNUSED, VAL, ArraySource
from kdrun.problems import UserError

BINS = 10


def assign(source: ArraySource, config: dict[str, Any]) -> np.ndarray:
    """int8 [N]: the split of every sample after `val_fraction`, `test_fraction` and `limit`.

    Parts that the source brings stay as they are. Test is taken first, then val from what is left for training, so
    that test never chooses anything. A sample's part depends on its class (of a table: the quantile of its target), its id and
    `split_seed`.
    """
    split = source.split.copy()
    seed = config["split_seed"]
    for part, option in ((TEST, "test_fraction"), (VAL, "val_fraction")):
        if not (split == part).any():
            fraction = config[option]
            if not 0 < fraction < 1:
                raise UserError(f"data.{option}={fraction}: {source.name} has no such split of its own, give 0 < x < 1")
            split[_share(source, np.flatnonzero(split == TRAIN), fraction, seed, option)] = part
    for name, part in SPLITS.items():
        limit = config["limit"].get(name)
        rows = np.flatnonzero(split == part)
        if limit is not None and limit < len(rows):
            kept = _subset(source, rows, limit, seed, name)
            split[rows] = UNUSED
            split[kept] = part
    return split


def sizes_of(source: ArraySource, split: np.ndarray) -> dict[str, int]:
    """Samples per split and further test set."""
    sizes = {name: int((split == part).sum()) for name, part in SPLITS.items()}
    return sizes | {name: len(rows) for name, rows in source.further.items()}


def told_moments(source: ArraySource, given: dict[str, Any], count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`data.normalize` as mean and deviation of `count` columns or channels. Raises UserError where it is none."""
    mean, std = (tuple(map(float, given[name])) for name in ("mean", "std"))
    if not len(mean) == len(std) == count or min(std) <= 0:
        raise UserError(f"data.normalize: {source.name} needs {count} means and {count} positive deviations")
    return mean, std


def _share(source: ArraySource, rows: np.ndarray, fraction: float, seed: int, purpose: str) -> np.ndarray:
    """`fraction` of every class, rounded; at least one sample of a class that has two."""
    taken = []
    for members in _by_class(source, rows, seed, purpose):
        count = max(round(len(members) * fraction), 1)
        taken.append(members[: min(count, len(members) - 1)])
    return np.concatenate(taken) if taken else rows[:0]


def _subset(source: ArraySource, rows: np.ndarray, limit: int, seed: int, purpose: str) -> np.ndarray:
    """Exactly `limit` rows, classes in proportion (largest remainders), one of each class where `limit` allows."""
    return proportional(list(_by_class(source, rows, seed, f"limit.{purpose}")), limit)


def proportional(groups: list[np.ndarray], limit: int) -> np.ndarray:
    """`limit` of the members of all groups, each group in proportion (largest remainders), its first members; one of each group where
    `limit` allows."""
    total = sum(map(len, groups))
    wanted = np.array([len(members) * limit / total for members in groups])
    counts = np.floor(wanted).astype(int)
    if limit >= len(groups):
        counts = np.maximum(counts, 1)
    while counts.sum() < limit:
        counts[np.argmax(wanted - counts)] += 1
    while counts.sum() > limit:
        counts[np.argmax(np.where(counts > 1, counts - wanted, -np.inf))] -= 1
    return np.concatenate([members[:count] for members, count in zip(groups, counts, strict=True)])


def _by_class(source: ArraySource, rows: np.ndarray, seed: int, purpose: str) -> Iterator[np.ndarray]:
    """The rows of each class that has any, in ascending order of labels, shuffled by id."""
    for members in by_stratum(source.ids[rows], source.strata[rows], randomness.key(purpose, seed)):
        yield rows[members]


def by_stratum(ids: np.ndarray, strata: np.ndarray, key: int) -> Iterator[np.ndarray]:
    """Positions of the samples of each stratum that has any, in ascending order of strata, shuffled by id. ids, strata: int64 [n]."""
    order = randomness.order(key, ids)
    told = strata[order]
    by = np.argsort(told, kind="stable")
    _, begins = np.unique(told[by], return_index=True)
    yield from np.split(order[by], begins[1:]) if len(begins) else ()


def quantile_bins(values: np.ndarray, of: np.ndarray | None = None, bins: int = BINS) -> np.ndarray:
    """int64 [n], 0..bins-1: by which of the inner quantiles of `of` (float [m]; null: of `values` themselves) each of
    `values` (float [n]) lies. What stands for the class where samples with real targets are drawn in proportion."""
    reference = np.asarray(values if of is None else of, np.float64)
    if not len(reference):
        return np.zeros(len(values), np.int64)
    edges = np.quantile(reference, np.arange(1, bins) / bins)
    return np.searchsorted(edges, np.asarray(values, np.float64), side="right").astype(np.int64)
