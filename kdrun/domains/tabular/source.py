"""What a source of a table returns: a row of numbers for each sample, and one number that is to be predicted from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from kdrun.data.source import ArraySource, check_columns
from kdrun.data.splits import quantile_bins


@dataclass
class Table(ArraySource):
    """Rows with a real target as their source gives them; see ArraySource for what is not here.

    x         float32 [N, F], raw
    y         float32 [N], raw, in the unit of the target
    features  names of the F columns
    target    what y is
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
    broken: ClassVar[str] = "rows hold NaN or infinite features"

    def __post_init__(self) -> None:
        count = len(self.x)
        if self.x.shape != (count, len(self.features)) or self.x.dtype != np.float32:
            raise ValueError(
                f"{self.name}: x is {self.x.dtype}{self.x.shape}, not float32 [N, {len(self.features)} features]"
            )
        check_columns(self, count, y=np.float32)

    def parts(self) -> tuple[Any, ...]:
        return (self.x, self.y, self.split, self.ids, self.features, self.target)

    @cached_property
    def strata(self) -> np.ndarray:
        return quantile_bins(self.y)
