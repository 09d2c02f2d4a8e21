"""What a source of images returns: raw pixels, labels, and ids that outlive every split and limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TRAIN, VAL, TEST, UNUSED = 0, 1, 2, -1
SPLITS = {"train": TRAIN, "val": VAL, "test": TEST}


@dataclass
class Images:
    """A labelled set of images as its source gives it.

    x            uint8 [N, C, H, W], or float32 with pixels in 0..1; an array or a memory map
    y            int64 [N], positions in `classes`
    split        int8 [N]: 0 train, 1 val, 2 test, -1 unused. A source without a split of its own says 0 throughout
    ids          int64 [N], unique: the position of the sample in the raw source
    classes      class names
    name         of the source
    source_hash  sha256 hex digest of the raw content, whatever file or archive it came in
    unreadable   names of files that could not be decoded and are not among the samples
    names        name of each sample's file, where samples are files
    """

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    name: str
    source_hash: str
    unreadable: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.x)
        if self.x.ndim != 4 or self.x.dtype not in (np.uint8, np.float32):
            raise ValueError(f"{self.name}: x is {self.x.dtype}{self.x.shape}, not uint8 or float32 [N, C, H, W]")
        check_columns(self, count, y=np.int64)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def strata(self) -> np.ndarray:
        """int64 [N]: what splits are drawn in proportion from."""
        return self.y

    def describe(self, position: int) -> str:
        """How to name one sample to a person: its file, or its id."""
        if self.names is not None:
            return self.names[position]
        return f"id {int(self.ids[position])}"


def check_columns(source: Any, count: int, y: Any) -> None:
    """Raises ValueError where y, split and ids of a source are not [count] of their types, or ids not unique."""
    for name, dtype in (("y", y), ("split", np.int8), ("ids", np.int64)):
        array = getattr(source, name)
        if array.shape != (count,) or array.dtype != dtype:
            raise ValueError(f"{source.name}: {name} is {array.dtype}{array.shape}, not {np.dtype(dtype)}({count},)")
    if len(np.unique(source.ids)) != count:
        raise ValueError(f"{source.name}: ids are not unique")
