"""What a source of images returns: raw pixels, labels, and ids that outlive every split and limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kdrun.data.source import ArraySource, check_columns


@dataclass
class Images(ArraySource):
    """A labelled set of images as its source gives it; see ArraySource for what is not here.

    x            uint8 [N, C, H, W], or float32 with pixels in 0..1; an array or a memory map
    y            int64 [N], positions in `classes`
    classes      class names
    unreadable   names of files that could not be decoded and are not among the samples
    names        name of each sample's file, where samples are files
    decoded      sha256 hex digest of x, where it depends on more than the raw content: on versions of decoders
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
    notes: tuple[str, ...] = ()
    decoded: str = ""
    determined: bool = False

    columns: ClassVar[tuple[str, ...]] = ("names",)
    broken: ClassVar[str] = "images hold NaN or infinite pixels"

    def __post_init__(self) -> None:
        count = len(self.x)
        if self.x.ndim != 4 or self.x.dtype not in (np.uint8, np.float32):
            raise ValueError(f"{self.name}: x is {self.x.dtype}{self.x.shape}, not uint8 or float32 [N, C, H, W]")
        check_columns(self, count, y=np.int64)

    def parts(self) -> tuple[Any, ...]:
        return (self.decoded, self.x.shape, str(self.x.dtype), self.y, self.split, self.ids, self.classes)

    def describe(self, position: int) -> str:
        return super().describe(position) if not self.names or not self.names[position] else self.names[position]
