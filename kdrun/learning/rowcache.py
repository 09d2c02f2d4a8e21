"""Arrays on disk with some rows for each sample: what caches of teachers' outputs for sequences are made of.

    <outputs>/<key>/<name>.npy     one row per position, samples one after another in the order of their ids
    <outputs>/<key>/marks.npy      uint32 [samples]: crc32 of the key and a sample's rows + 1, or 0 while it is missing
    <outputs>/<key>/manifest.json  written last, with the checksums of the arrays

As in cache.py, a sample is written before its mark, so a build that was killed goes on and a torn one is seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrun.checksums import finished, write_manifest
from kdrun.files import open_array
from kdrun.learning import cache

BLOCK = 64
"""Samples that are computed together; part of the key, since last bits depend on the batch."""


class RowCache(cache.Refusable):
    """Rows for samples.

    ids     int64 [samples], in any order
    counts  rows of each of them, in the same order
    arrays  name -> (type, width of a row)
    """

    def __init__(
        self,
        folder: Path,
        ids: torch.Tensor,
        counts: Callable[[torch.Tensor], torch.Tensor],
        arrays: Mapping[str, tuple[Any, int]],
        parts: dict[str, Any],
    ):
        self.folder, self.parts = folder, parts
        self.ids = torch.sort(ids).values
        self.starts = np.concatenate([[0], np.cumsum(counts(self.ids).numpy())])
        folder.mkdir(parents=True, exist_ok=True)
        self._key = zlib.crc32(cache.cache_key(parts).encode())
        self.complete = finished(folder, parts, [f"{name}.npy" for name in (*arrays, "marks")], cache.TOLD)
        total = int(self.starts[-1])
        self.arrays = {name: self._open(name, np.dtype(kind), (total, width)) for name, (kind, width) in arrays.items()}
        self._marks = self._open("marks", np.dtype(np.uint32), (len(self.ids),))
        if not self.complete:
            for row in np.flatnonzero(self._marks):
                if self._marks[row] != self._mark(row):
                    self._marks[row] = 0

    def _open(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        return open_array(self.folder / f"{name}.npy", dtype, shape)

    def _mark(self, row: int) -> int:
        part, value = self.part(row), self._key
        for array in self.arrays.values():
            value = zlib.crc32(array[part].tobytes(), value)
        return (value % 0xFFFFFFFF) + 1

    def part(self, row: int) -> slice:
        """Where a sample's rows are."""
        return slice(self.starts[row], self.starts[row + 1])

    def rows_of(self, ids: torch.Tensor) -> np.ndarray:
        """Numbers of samples by id. KeyError for an id that is not covered."""
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        if not torch.equal(self.ids[rows], ids):
            raise KeyError(f"sample id {int(ids[self.ids[rows] != ids][0])} is not in the teacher's cached outputs")
        return rows.numpy()

    def missing(self) -> Iterator[tuple[np.ndarray, int, bool]]:
        """(rows, samples seen with them, whether any of them is missing) in blocks of like length: same samples, same bits."""
        lengths = np.diff(self.starts)
        order = np.lexsort((np.arange(len(lengths)), lengths))
        for first in range(0, len(order), BLOCK):
            rows = order[first : first + BLOCK]
            yield rows, min(first + BLOCK, len(order)), not self._marks[rows].all()

    def put(self, row: int, **values: np.ndarray) -> None:
        """Store a sample's rows, then its mark. Raises FloatingPointError for a NaN."""
        for name, value in values.items():
            cache.refuse_nan(value[None], self.ids[row : row + 1])
            self.arrays[name][self.part(row)] = value
        self._marks[row] = self._mark(row)

    def finish(self, extra: dict[str, Any] | None = None) -> None:
        """Flush and write the manifest; nothing happens while a sample is missing."""
        if self.complete or not self._marks.all():
            return
        for array in (*self.arrays.values(), self._marks):
            array.flush()
        names = [f"{name}.npy" for name in (*self.arrays, "marks")]
        write_manifest(self.folder, names, parts=self.parts, **(extra or {}))
        self.complete = True

    def some(self, count: int, seed: int) -> torch.Tensor:
        """int64: ids of `count` samples drawn at random."""
        generator = torch.Generator().manual_seed(seed)
        return self.ids[torch.randint(len(self.ids), (min(count, len(self.ids)),), generator=generator)]
