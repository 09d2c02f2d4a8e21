"""What a source of a table returns: a row of numbers for each sample, and one number that is to be predicted from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from kdrun.domains.images.source import check_columns, parts_hash

BINS = 10


@dataclass
class Table:
    """Rows with a real target as their source gives them.

    x            float32 [N, F], raw
    y            float32 [N], raw, in the unit of the target
    split        int8 [N]: 0 train, 1 val, 2 test, -1 unused (see images.SPLITS). A source without a split says 0 throughout
    ids          int64 [N], unique: the position of the sample in the raw source
    features     names of the F columns
    target       what y is
    name         of the source
    source_hash  sha256 hex digest of the raw content, whatever file it came in
    notes        what a person should know of how the source was read: one sentence each, without a full stop
    determined   whether all columns follow from the raw content alone, so that source_hash stands for all
    """

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    features: tuple[str, ...]
    target: str
    name: str
    source_hash: str
    notes: tuple[str, ...] = ()
    determined: bool = False

    classes: ClassVar[tuple[str, ...]] = ()
    unreadable: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        count = len(self.x)
        if self.x.shape != (count, len(self.features)) or self.x.dtype != np.float32:
            raise ValueError(
                f"{self.name}: x is {self.x.dtype}{self.x.shape}, not float32 [N, {len(self.features)} features]"
            )
        check_columns(self, count, y=np.float32)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def content_hash(self) -> str:
        """As of images."""
        parts = (self.x, self.y, self.split, self.ids, self.features, self.target)
        return self.source_hash if self.determined else parts_hash(self.source_hash, *parts)

    @cached_property
    def strata(self) -> np.ndarray:
        """int64 [N]: what splits are drawn in proportion from."""
        return quantile_bins(self.y)

    def describe(self, position: int) -> str:
        """How to name one sample to a person."""
        return f"id {int(self.ids[position])}"


def quantile_bins(values: np.ndarray, of: np.ndarray | None = None, bins: int = BINS) -> np.ndarray:
    """int64 [n], 0..bins-1: by which of the inner quantiles of `of` (float [m]; null: of `values` themselves) each of
    `values` (float [n]) lies. What stands for the class where samples with real targets are drawn in proportion."""
    reference = np.asarray(values if of is None else of, np.float64)
    if not len(reference):
        return np.zeros(len(values), np.int64)
    edges = np.quantile(reference, np.arange(1, bins) / bins)
    return np.searchsorted(edges, np.asarray(values, np.float64), side="right").astype(np.int64)
