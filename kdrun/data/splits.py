"""Stratified splits and subsets: per class, the samples that come first in a random order of their ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.domains.images.source import SPLITS, TEST, TRAIN, UNUSED, VAL, Images
from kdrun.domains.tabular.source import Table
from kdrun.problems import UserError


def assign(images: Images | Table, config: dict[str, Any]) -> np.ndarray:
    """int8 [N]: the split of every sample after `val_fraction`, `test_fraction` and `limit`.

    Parts that the source brings stay as they are. Test is taken first, then val from what is left for training, so
    that test never chooses anything. A sample's part depends on its class (of a table: the quantile of its target), its id and
    `split_seed`.
    """
    split = images.split.copy()
    seed = config["split_seed"]
    for part, option in ((TEST, "test_fraction"), (VAL, "val_fraction")):
        if not (split == part).any():
            fraction = config[option]
            if not 0 < fraction < 1:
                raise UserError(f"data.{option}={fraction}: {images.name} has no such split of its own, give 0 < x < 1")
            split[_share(images, np.flatnonzero(split == TRAIN), fraction, seed, option)] = part
    for name, part in SPLITS.items():
        limit = config["limit"].get(name)
        rows = np.flatnonzero(split == part)
        if limit is not None and limit < len(rows):
            kept = _subset(images, rows, limit, seed, name)
            split[rows] = UNUSED
            split[kept] = part
    return split


def _share(images: Images | Table, rows: np.ndarray, fraction: float, seed: int, purpose: str) -> np.ndarray:
    """`fraction` of every class, rounded; at least one sample of a class that has two."""
    taken = []
    for members in _by_class(images, rows, seed, purpose):
        count = max(round(len(members) * fraction), 1)
        taken.append(members[: min(count, len(members) - 1)])
    return np.concatenate(taken) if taken else rows[:0]


def _subset(images: Images | Table, rows: np.ndarray, limit: int, seed: int, purpose: str) -> np.ndarray:
    """Exactly `limit` rows, classes in proportion (largest remainders), one of each class where `limit` allows."""
    groups = list(_by_class(images, rows, seed, f"limit.{purpose}"))
    wanted = np.array([len(members) * limit / len(rows) for members in groups])
    counts = np.floor(wanted).astype(int)
    if limit >= len(groups):
        counts = np.maximum(counts, 1)
    while counts.sum() < limit:
        counts[np.argmax(wanted - counts)] += 1
    while counts.sum() > limit:
        counts[np.argmax(np.where(counts > 1, counts - wanted, -np.inf))] -= 1
    return np.concatenate([members[:count] for members, count in zip(groups, counts, strict=True)])


def _by_class(images: Images | Table, rows: np.ndarray, seed: int, purpose: str) -> Iterator[np.ndarray]:
    """The rows of each class that has any, in ascending order of labels, shuffled by id."""
    rows = rows[randomness.order(randomness.key(purpose, seed), images.ids[rows])]
    labels = images.strata[rows]
    for label in np.unique(labels):
        yield rows[labels == label]
