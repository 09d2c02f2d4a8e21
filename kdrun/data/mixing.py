"""Batches of which a share has labels, from samples of which not all have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.loader import BatchLoader


class MixedLoader(BatchLoader):
    """Full batches, a `share` of each of samples with a label and the rest of samples without; an epoch has as many steps as that of
    `plain`, the loader of all samples, whatever the share is.

    Either kind comes in passes (see Stream) that go on from epoch to epoch, so samples with a label come again while those without
    are gone through. Random changes of inputs are new in every pass.
    """

    def __init__(self, plain: BatchLoader, share: float):
        self.plain, self.samples, self.seed = plain, plain.samples, plain.seed
        self.rank, self.world, self.batch_size = plain.rank, plain.world, plain.batch_size
        labelled, full = self.samples.labelled.numpy(), plain.full
        count = full if share == 1 or labelled.all() else min(max(round(share * full), 1), full - 1)
        kinds = {"labelled": (labelled, count), "unlabelled": (~labelled, full - count)}
        self.streams = {
            name: plain.stream(np.flatnonzero(which), part) for name, (which, part) in kinds.items() if part > 0
        }
        self.epoch = self._cursor = self._start = 0

    def __len__(self) -> int:
        return len(self.plain)

    def rows(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions, passes) of a batch of this epoch over all ranks, mixed, so that each rank and each part has its share of both."""
        step = self.epoch * len(self) + index
        rows, turns = map(np.concatenate, zip(*(stream(step) for stream in self.streams.values()), strict=True))
        mixed = randomness.order(randomness.key("mixed", self.seed, step), np.arange(len(rows)))
        return rows[mixed], turns[mixed]

    def _epoch(self) -> Callable[[int], dict[str, Any]]:
        self.plain.set_epoch(self.epoch)
        return lambda index: self.plain.part(*self.rows(index))

    def per_epoch(self) -> dict[str, int]:
        counts = {name: round(stream.count * len(self)) for name, stream in self.streams.items()}
        return {"labelled": 0, "unlabelled": 0, **counts}
