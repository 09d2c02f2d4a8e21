"""Arrays on disk in shards, each a folder with a manifest of its own: what caches of teachers' outputs are made of.

    <folder>/<name>.npy, marks.npy, manifest.json          of a cache of at most SHARD_BYTES
    <folder>/0000/..., <folder>/0001/..., manifest.json    of a larger one; the last is written when all shards are there

A shard is built, checked and made again by itself. Several ranks of a stage build one cache together: each takes the shards that no other has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.checksums import MANIFEST, empty, finished, write_manifest
from kdrun.files import open_array

SHARD_BYTES = 64 << 20
"""Most that a shard holds, unless a block of rows that are computed together is larger."""
MARKS = "marks"
TOLD = "stored outputs of a teacher"


class DamagedCache(RuntimeError):
    """Stored outputs are not what the live teacher says."""


class Shard:
    """Some rows of a cache.

    number  among the shards; None: it is the only one, and lies where the cache lies
    rows    their numbers in the cache: a slice, or int64 [n] in ascending order
    shapes  {name: (type, shape)} of its arrays; `arrays` once it is open
    torn    called with a shard that is not complete: clears the marks beside rows that did not reach the disk
    """

    def __init__(
        self,
        folder: Path,
        number: int | None,
        rows: Any,
        shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
        parts: dict[str, Any],
        torn: Callable[[Shard], None],
    ):
        self.folder = folder if number is None else folder / f"{number:04}"
        self.parts = parts if number is None else {**parts, "shard": number}
        self.number, self.rows, self.shapes = number or 0, rows, shapes
        self.complete, self.arrays = False, dict[str, Any]()
        self._torn = torn

    @property
    def files(self) -> list[str]:
        return [f"{name}.npy" for name in self.shapes]

    def open(self) -> Shard:
        """Map its arrays, which are made where they are not there; what was finished and is not what was written is made anew."""
        if self.arrays:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complete = finished(self.folder, self.parts, self.files, TOLD)
        self.arrays = {name: open_array(self.folder / f"{name}.npy", *shape) for name, shape in self.shapes.items()}
        if not self.complete:
            self._torn(self)
        return self

    @property
    def marks(self) -> np.ndarray:
        return self.arrays[MARKS]

    def missing(self) -> int:
        """Marks that are not set."""
        return 0 if self.complete else int((self.open().marks == 0).sum())

    def finish(self, extra: dict[str, Any] | None = None) -> None:
        """Flush and write the manifest; nothing happens while a row is missing."""
        if self.complete or self.missing():
            return
        for array in self.arrays.values():
            array.flush()
        write_manifest(self.folder, self.files, parts=self.parts, **(extra or {}))
        self.complete = True


class Sharded:
    """A cache in shards. folder: where it lies; parts: what its key is made of."""

    folder: Path
    parts: dict[str, Any]
    shards: list[Shard]

    def open(self) -> None:
        """All shards."""
        for shard in self.shards:
            shard.open()

    @property
    def complete(self) -> bool:
        return all(shard.complete for shard in self.shards)

    def missing(self) -> int:
        """Samples (of images: in each view) that are not there."""
        return sum(shard.missing() for shard in self.shards)

    def any(self) -> bool:
        """Whether a sample is there."""
        return any(bool(shard.open().marks.any()) for shard in self.shards)

    def finish(self, extra: dict[str, Any] | None = None) -> None:
        """Flush what is whole, and once all is, write the manifest of the whole; extra: goes into that."""
        if len(self.shards) == 1:
            self.shards[0].finish(extra)
            return
        for shard in self.shards:
            shard.finish()
        if self.complete and not (self.folder / MANIFEST).is_file():
            names = [f"{shard.folder.name}/{name}" for shard in self.shards for name in shard.files]
            write_manifest(self.folder, names, parts=self.parts, **(extra or {}))

    def refused(self, what: str, error: float, tolerance: float) -> DamagedCache:
        """The error to raise where they differ from the live teacher; they are removed, so that the next try computes them."""
        empty(self.folder)
        for shard in self.shards:
            empty(shard.folder)
        return DamagedCache(
            f"stored {what} differed from the live teacher by {error:.3g} (at most {tolerance:.3g}); they were removed from "
            f"{self.folder}: the same command computes them again"
        )


class _Taken(Exception):
    """Another process has a shard."""


def turns(
    shards: Sequence[Shard], lock: Callable[..., AbstractContextManager[Any]], rank: int, world: int
) -> Iterator[Shard]:
    """The shards that miss something, each open and, of several ranks, locked while it is the caller's. Ranks begin at different ones and leave
    out those that another has; these are waited for at the end, and taken if they are not complete then.

    lock(number, waiting): a context manager that one process at a time can hold; `waiting` is called where another does."""
    if world == 1:
        yield from (shard for shard in shards if not shard.open().complete)
        return
    first, taken = rank * len(shards) // world, []

    def leave() -> None:
        raise _Taken

    for shard in (*shards[first:], *shards[:first]):
        try:
            with lock(shard.number, leave):
                if not shard.open().complete:
                    yield shard
        except _Taken:
            taken.append(shard)
    for shard in taken:
        with lock(shard.number, None):
            if not shard.open().complete:
                yield shard
