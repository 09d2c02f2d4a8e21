"""Arrays on disk with some rows for each sample: what caches of teachers' outputs for sequences are made of.

    <outputs>/<key>/<name>.npy     one row per position, samples one after another in the order of their ids
    <outputs>/<key>/marks.npy      uint32 [samples]: crc32 of the key and a sample's rows + 1, or 0 while it is missing
    <outputs>/<key>/manifest.json  written last, with the checksums of the arrays

A larger one is in shards, of samples of like length (see shards). As in cache.py, a sample is written before its mark, so a build that was
killed goes on and a torn one is seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrun.learning import cache, shards
from kdrun.learning.shards import Sharded

BLOCK = 64
"""Samples that are computed together; part of the key, since last bits depend on the batch."""


class RowCache(Sharded):
    """Rows for samples.

    ids     int64 [samples], in any order
    counts  rows of each of them, in the same order
    arrays  name -> (type, width of a row)
    lazy    shards are not opened here, but one by one (see shards.turns)
    """

    def __init__(
        self,
        folder: Path,
        ids: torch.Tensor,
        counts: Callable[[torch.Tensor], torch.Tensor],
        arrays: Mapping[str, tuple[Any, int]],
        parts: dict[str, Any],
        lazy: bool = False,
    ):
        self.folder, self.parts = folder, parts
        self.ids = torch.sort(ids).values
        self.counts = counts(self.ids).numpy()
        self._key = zlib.crc32(cache.cache_key(parts).encode())
        self._order = np.lexsort((np.arange(len(self.counts)), self.counts))
        width = sum(np.dtype(kind).itemsize * wide for kind, wide in arrays.values())
        runs = self._runs(width)
        self._shard_of, self._starts = np.zeros(len(self.ids), np.int64), np.zeros(len(self.ids) + 1, np.int64)
        self.shards = []
        for number, run in enumerate(runs):
            rows = np.sort(run)
            self._shard_of[rows] = number
            ends = np.cumsum(self.counts[rows])
            self._starts[rows] = ends - self.counts[rows]
            shapes = {
                name: (np.dtype(kind), (int(ends[-1]) if len(ends) else 0, wide))
                for name, (kind, wide) in arrays.items()
            } | {shards.MARKS: (np.dtype(np.uint32), (len(rows),))}
            place = None if len(runs) == 1 else number
            self.shards.append(shards.Shard(folder, place, rows, shapes, parts, self._drop_torn))
        if not lazy:
            self.open()

    def _runs(self, width: int) -> list[np.ndarray]:
        """The samples of each shard, in the order of their lengths: whole blocks, of at most shards.SHARD_BYTES in all."""
        taken = np.cumsum(self.counts[self._order]) * width
        edges, begun = [0], 0
        for end in range(BLOCK, len(self._order) + BLOCK, BLOCK):
            last = int(taken[min(end, len(taken)) - 1])
            if last - begun > shards.SHARD_BYTES and end - BLOCK > edges[-1]:
                edges.append(end - BLOCK)
                begun = int(taken[end - BLOCK - 1])
        return [self._order[first:end] for first, end in pairwise([*edges, len(self._order)])]

    def _drop_torn(self, shard: shards.Shard) -> None:
        for place in np.flatnonzero(shard.marks):
            if shard.marks[place] != self._mark(int(shard.rows[place])):
                shard.marks[place] = 0

    def _mark(self, row: int) -> int:
        value = self._key
        for array in self.get(row).values():
            value = zlib.crc32(array.tobytes(), value)
        return (value % 0xFFFFFFFF) + 1

    def get(self, row: int) -> dict[str, np.ndarray]:
        """A sample's rows in each array; what is written to them is stored."""
        shard, first = self.shards[self._shard_of[row]].open(), self._starts[row]
        part = slice(first, first + self.counts[row])
        return {name: array[part] for name, array in shard.arrays.items() if name != shards.MARKS}

    def rows_of(self, ids: torch.Tensor) -> np.ndarray:
        """Numbers of samples by id. KeyError for an id that is not covered."""
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        if not torch.equal(self.ids[rows], ids):
            raise KeyError(f"sample id {int(ids[self.ids[rows] != ids][0])} is not in the teacher's cached outputs")
        return rows.numpy()

    def blocks(self, shard: shards.Shard) -> Iterator[tuple[np.ndarray, int, bool]]:
        """(rows, samples seen with them, whether any of them is missing) of a shard, in blocks of like length: same samples, same bits."""
        before = sum(len(other.rows) for other in self.shards[: shard.number])
        order = np.lexsort((shard.rows, self.counts[shard.rows]))
        for first in range(0, len(order), BLOCK):
            places = order[first : first + BLOCK]
            yield shard.rows[places], before + first + len(places), not shard.open().marks[places].all()

    def put(self, row: int, **values: np.ndarray) -> None:
        """Store a sample's rows, then its mark. Raises FloatingPointError for a NaN."""
        stored = self.get(row)
        for name, value in values.items():
            cache.refuse_nan(value[None], self.ids[row : row + 1])
            stored[name][:] = value
        shard = self.shards[self._shard_of[row]]
        shard.marks[np.searchsorted(shard.rows, row)] = self._mark(row)

    def build(self, teacher: Any, device: torch.device, told: Callable[[int], None], moved: Callable[..., Any]) -> None:
        """Compute what is missing."""
        for shard in self.shards:
            self.fill(shard, teacher, device, told, moved)

    def fill(
        self,
        shard: shards.Shard,
        teacher: Any,
        device: torch.device,
        told: Callable[[int], None],
        moved: Callable[..., Any],
    ) -> None:
        """Compute what is missing of a shard."""
        for rows, seen, missing in self.blocks(shard):
            if missing:
                self.compute(rows, teacher, device, moved)
            told(seen)

    def compute(self, rows: np.ndarray, teacher: Any, device: torch.device, moved: Callable[..., Any]) -> None:
        """Ask the teacher for these samples, and put what it says."""
        raise NotImplementedError

    def some(self, count: int, seed: int) -> torch.Tensor:
        """int64: ids of `count` samples drawn at random."""
        generator = torch.Generator().manual_seed(seed)
        return self.ids[torch.randint(len(self.ids), (min(count, len(self.ids)),), generator=generator)]
