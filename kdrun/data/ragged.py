"""Rows of token ids of differing length in two flat arrays. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

HELD = 1 << 20
"""Ids of rows that grow which are in memory."""


@dataclass(frozen=True)
class Ragged:
    """`flat` int32 [total]; row r is flat[starts[r]:starts[r + 1]]; `starts` int64 [n + 1]."""

    flat: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        return cls(np.fromiter(chain.from_iterable(rows), np.int32, starts[-1]), starts)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of the first, then those of the next."""
        growing = Growing(None)
        for part in parts:
            growing.add(part)
        return growing.rows()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The ids of one row."""
        return self.flat[slice(*self.starts[row : row + 2])]

    def lengths(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """int64 [b]: number of ids in these rows."""
        return self.starts[1:][rows] - self.starts[:-1][rows]

    def padded(self, rows: np.ndarray, fill: int) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [b, W], bool [b, W]: where there is an id); W is the longest of these rows, 0 of none."""
        lengths = self.lengths(rows)
        columns = np.arange(lengths.max(initial=0))
        real = columns < lengths[:, None]
        places = np.where(real, self.starts[rows][:, None] + columns, 0)
        return np.where(real, self.flat[places].astype(np.int64), fill), real

    def cut(self, rows: np.ndarray, most: int, last: int) -> Ragged:
        """These rows; of those with more than `most` ids the first, the last of them replaced by `last`."""
        lengths = np.minimum(self.lengths(rows), most)
        starts = _starts(lengths)
        flat = self.flat[np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])]
        flat[starts[1:][self.lengths(rows) > most] - 1] = last
        return Ragged(flat, starts)


class Growing:
    """Rows that come block by block. They are in memory while they are few, and from HELD ids on in a file without a name in `folder`, so
    that they may be more than memory holds."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._file: Any = None
        self._flats: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, part: Ragged) -> None:
        self._lengths.append(part.lengths())
        self._flats.append(part.flat)
        if self.folder is not None and sum(map(len, self._flats)) >= HELD:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - it goes with the last that reads it
            for flat in self._flats:
                self._file.write(flat.tobytes())
            self._flats = []

    def rows(self) -> Ragged:
        """All of them, once the last has come."""
        starts = _starts(np.concatenate(self._lengths))
        if self._file is None:
            return Ragged(np.concatenate(self._flats), starts)
        for flat in self._flats:
            self._file.write(flat.tobytes())
        self._file.flush()
        return Ragged(np.memmap(self._file, np.int32, "r", shape=(int(starts[-1]),)), starts)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
