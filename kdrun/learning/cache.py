"""A teacher's outputs on disk: one memory-mapped array per stage of a sweep, keyed by sample id and view.

    <outputs>/<key>/logits.npy     [views, samples, classes + D] in float32 or, by teacher.cache_format, float16 or bfloat16 (its bits as
                                   uint16); one row per training sample in the order of ids: logits, then D features where the
                                   objective compares them (else D = 0)
    <outputs>/<key>/marks.npy      uint32 [views, samples]: crc32 of the key and the row + 1, or 0 while it is missing
    <outputs>/<key>/manifest.json  what the key was made of; written last, with the checksums of the arrays

A larger one is in shards of some samples each, with all views of them (see shards).

The key covers the teacher's fingerprint, the content and view of the data, the device and precision, and the order in
which rows are computed, since a network's last bits depend on the batch a sample is in. A row is written before its
mark, so a build that was killed goes on where it stopped, and a torn row is seen. A finished cache that is damaged is computed again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.data.host import moved, on_host
from kdrun.domains.task import Prediction
from kdrun.learning import shards
from kdrun.learning.shards import DamagedCache, Sharded
from kdrun.learning.teacher import FrozenTeacher

__all__ = ["CachedTeacher", "DamagedCache", "OutputCache"]

STORED = {
    "fp32": (np.dtype(np.float32), torch.float32),
    "fp16": (np.dtype(np.float16), torch.float16),
    "bf16": (np.dtype(np.uint16), torch.bfloat16),
}
"""Number format -> type in the file, and what it is to torch."""
BLOCK = 256  # rows that are computed together by `build`; part of the key


def cache_key(parts: dict[str, Any]) -> str:
    """64 hex digits over everything that determines the rows."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def cache_bytes(module, features: int = 0, number_format: str = "fp32") -> int:
    """Disk that the outputs for a data module's training views take, with features of that width."""
    row = (module.spec.outputs + features) * STORED[number_format][0].itemsize + 4
    return module.views * module.spec.sizes["train"] * row


def largest_difference(live: Tensor, stored: Tensor, least: float = -np.inf) -> float:
    """Largest absolute difference of two tensors of one shape where `live` is above `least`, 0 for none; NaN as soon as
    either has a NaN. Equal infinities do not differ."""
    difference = torch.where(live == stored, 0.0, (live - stored).abs())
    counted = difference[(live > least) | difference.isnan()]
    return float(counted.max()) if counted.numel() else 0.0


def refuse_nan(values: np.ndarray, ids: Tensor) -> None:
    """Raises FloatingPointError where a row [n, ...] of what is to be stored for these ids [n] has a NaN."""
    if values.dtype.kind == "f" and np.isnan(values).any():
        rows = np.isnan(values).reshape(len(values), -1).any(1)
        raise FloatingPointError(f"the teacher's output for sample id {int(ids[torch.from_numpy(rows)][0])} is NaN")


class OutputCache(Sharded):
    """Rows of a teacher's outputs for `ids` under `views` augmented views; read and written as memory maps.

    features: width of the features that stand behind the logits. number_format: a key of STORED. lazy: shards are not opened here, but
    one by one (see shards.turns).
    """

    def __init__(
        self,
        folder: Path,
        ids: Tensor,
        views: int,
        classes: int,
        parts: dict[str, Any],
        features: int = 0,
        number_format: str = "fp32",
        lazy: bool = False,
    ):
        self.folder, self.parts, self.classes = folder, parts, classes
        self.ids, _ = torch.sort(ids.to(torch.int64))
        if bool((self.ids[1:] == self.ids[:-1]).any()):
            raise ValueError("sample ids are not unique: teacher outputs cannot be keyed by them")
        self.shape = (views, len(ids), classes + features)
        self._key = zlib.crc32(cache_key(parts).encode())
        stored, self.kind = STORED[number_format]
        size = views * self.shape[2] * stored.itemsize
        self._step = max(shards.SHARD_BYTES // size // BLOCK, 1) * BLOCK  # rows of a shard
        edges = [*range(0, len(ids), self._step), len(ids)]
        self.shards = []
        for number, (first, end) in enumerate(pairwise(edges)):
            shapes = {
                "logits": (stored, (views, end - first, self.shape[2])),
                shards.MARKS: (np.dtype(np.uint32), (views, end - first)),
            }
            place = None if len(edges) == 2 else number
            self.shards.append(shards.Shard(folder, place, slice(first, end), shapes, parts, self._drop_torn))
        if not lazy:
            self.open()

    def _drop_torn(self, shard: shards.Shard) -> None:
        """After a crash a mark may stand beside a row that never reached the disk: such marks are cleared."""
        marks, logits = shard.marks, shard.arrays["logits"]
        for view, row in zip(*np.nonzero(marks), strict=True):
            if marks[view, row] != self._mark(logits[view, row]):
                marks[view, row] = 0

    def _mark(self, row: np.ndarray) -> int:
        return (zlib.crc32(row.tobytes(), self._key) % 0xFFFFFFFF) + 1

    def _divided(self, rows: Tensor) -> Iterator[tuple[shards.Shard, Any, Tensor]]:
        """(shard, which of these rows are in it, their numbers there)."""
        if len(self.shards) == 1:
            yield self.shards[0].open(), slice(None), rows
            return
        numbers = rows // self._step
        for number in numbers.unique().tolist():
            places = (numbers == number).nonzero().flatten()
            yield self.shards[number].open(), places, rows[places] - number * self._step

    def rows_of(self, ids: Tensor) -> Tensor:
        """Row numbers of sample ids. Raises KeyError for an id the cache does not cover: outputs never go to a neighbour."""
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        if not torch.equal(self.ids[rows], ids):
            unknown = ids[self.ids[rows] != ids][0]
            raise KeyError(f"sample id {int(unknown)} is not in the teacher's cached outputs")
        return rows

    def has(self, view: int, rows: Tensor) -> bool:
        """Whether all these rows are there."""
        each = self._divided(rows)
        return all(shard.complete or bool(shard.marks[view, here.numpy()].all()) for shard, _, here in each)

    def read(self, view: int, rows: Tensor) -> Tensor:
        """float32 [b, classes + D]."""
        found = torch.empty(len(rows), self.shape[2])
        for shard, places, here in self._divided(rows):
            stored = torch.from_numpy(shard.arrays["logits"][view]).view(self.kind)
            found[places] = stored.index_select(0, here).float()
        return found

    def prediction(self, rows: Tensor) -> Prediction:
        """Rows as the teacher would have said them."""
        if rows.shape[1] == self.classes:
            return Prediction(rows)
        return Prediction(rows[:, : self.classes], features={"features": rows[:, self.classes :]})

    def row(self, said: Prediction) -> Tensor:
        """float32 [b, classes + D] of what a live teacher says."""
        logits = said.logits.float()
        return logits if self.shape[2] == self.classes else torch.cat([logits, said.features["features"].float()], 1)

    def write(self, view: int, rows: Tensor, said: Prediction) -> None:
        """Store what a teacher says of these rows; the mark of a row follows the row."""
        exact = self.row(said).detach().to("cpu")
        refuse_nan(exact.numpy(), self.ids[rows])
        values = exact.to(self.kind)
        if bool((values.isinf() & exact.isfinite()).any()):
            raise FloatingPointError(
                "a teacher's output is beyond what teacher.cache_format=fp16 can hold (65,504): give bf16 or fp32"
            )
        kept = values.view(torch.uint16).numpy() if self.kind == torch.bfloat16 else values.numpy()
        for shard, places, here in self._divided(rows):
            own = kept[places]
            shard.arrays["logits"][view, here.numpy()] = own
            shard.marks[view, here.numpy()] = [self._mark(value) for value in own]

    @property
    def rounding(self) -> float:
        """Largest relative error of a number that is kept."""
        return 0.0 if self.kind == torch.float32 else torch.finfo(self.kind).eps / 2

    def build(
        self,
        teacher: FrozenTeacher,
        inputs: Callable[[Tensor, int], Tensor],
        device: torch.device,
        told: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Compute what is missing."""
        for shard in self.shards:
            self.fill(shard, teacher, inputs, device, told)

    def fill(
        self,
        shard: shards.Shard,
        teacher: FrozenTeacher,
        inputs: Callable[[Tensor, int], Tensor],
        device: torch.device,
        told: Callable[[int], None],
    ) -> None:
        """Compute what is missing of a shard in blocks of BLOCK consecutive rows, whatever was there before: same rows, same bits.

        inputs(ids [b], view) gives the inputs of these samples under that view as networks take them.
        """
        views, begin, end = self.shape[0], shard.rows.start, shard.rows.stop
        for view in range(views):
            for first in range(begin, end, BLOCK):
                rows = torch.arange(first, min(first + BLOCK, end))
                if not self.has(view, rows):
                    batch = {"inputs": moved(inputs(self.ids[rows], view), device)}
                    self.write(view, rows, teacher.outputs(batch))
                told(views * begin + view * (end - begin) + int(rows[-1]) + 1 - begin)

    def largest_error(self, teacher: FrozenTeacher, inputs, device: torch.device, count: int, seed: int) -> float:
        """Largest absolute difference between `count` random rows and what the live teacher says now; 0 if count is 0 or no row
        is there yet, NaN for a row that has one."""
        generator = torch.Generator().manual_seed(seed)
        views, samples, _ = self.shape
        worst = 0.0
        for view in range(views):
            known = torch.from_numpy(np.flatnonzero(np.concatenate([one.open().marks[view] for one in self.shards])))
            if count == 0 or len(known) == 0:
                continue
            rows = known[torch.randint(len(known), (min(count, samples),), generator=generator)]
            batch = {"inputs": moved(inputs(self.ids[rows], view), device)}
            live = self.row(teacher.outputs(batch)).cpu()
            error = largest_difference(live.to(self.kind).float(), self.read(view, rows))
            worst = error if error != error else max(worst, error)
            if worst != worst:
                return worst
        return worst


class CachedTeacher:
    """A teacher that reads its outputs; the rows that are not there yet are computed once by `live` and written.

    With a finished cache `live` may be None and the network need not be in memory at all. `verify` is called once, when the
    last row has been written.
    """

    def __init__(
        self,
        cache: OutputCache,
        fingerprint: str,
        live: FrozenTeacher | None = None,
        asked: int = 0,
        verify: Callable[[], None] | None = None,
    ):
        self.cache, self._verify = cache, verify
        self._asked = asked  # samples computed while the cache was built and checked
        self.fingerprint = fingerprint
        self.live = live
        self.device = torch.device("cpu")

    @property
    def fills(self) -> bool:
        """Whether it is asked in steps that do not use what it says, too: rows are computed in the batches of the first epoch."""
        return self.live is not None

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Prediction:
        rows = self.cache.rows_of(on_host(batch, "ids"))
        view = batch["view"]
        if not self.cache.has(view, rows):
            if self.live is None:
                raise RuntimeError("the teacher's cached outputs are incomplete and the teacher is not loaded")
            with torch.autocast(self.device.type, enabled=False):  # rows are float32, whatever a student trains in
                self.cache.write(view, rows, self.live.outputs(batch))
                if self._verify is not None and not self.cache.missing():
                    self._verify()
                    self._verify = None
        found = self.cache.read(view, rows)
        return self.cache.prediction(found if self.device.type == "cpu" else found.to(self.device, non_blocking=True))

    @property
    def samples(self) -> int:
        return self._asked + (0 if self.live is None else self.live.samples)

    def to(self, device: torch.device) -> None:
        self.device = device
        if self.live is not None:
            self.live.to(device)

    def close(self) -> None:
        if self.live is not None:
            self.live.close()
        self.cache.finish()
