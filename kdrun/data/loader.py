"""Batches by tensor indexing: no workers, no collation. Which samples come when is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.data import randomness
from kdrun.data.host import SCALING
from kdrun.data.samples import Samples
from kdrun.data.stream import Stream

WINDOW = 32
"""Batches among which samples of similar length come together (SortedLoader)."""


class BatchLoader:
    """Iterates one split in batches, as one of `world` ranks; resumes at any batch.

    A batch is a dict: "ids" int64 [b], "inputs" float32 [b, C, H, W] (of tables [b, F]), "targets" int64 [b] (of tables
    float32), "view" (int: which augmented view) and "size" (int: samples of this batch over all ranks, what losses are divided by).
    Where the augmentation makes further views of a sample ("strong"), their inputs are there by name.
    Where not all samples have a label also "labelled" bool [b] and "sizes": {"mask": size, "labelled": those with one}.

    batch_size  samples per batch over all ranks; each batch is split contiguously and as evenly as possible
    seed        of order and augmentation; None: the order of the source, nothing augmented (evaluation)
    smallest    samples per rank below which a last batch is joined to the one before: 2 for training, since batch
                normalisation cannot use a single sample, and 1 for evaluation, since no rank may be without a step.
                So all ranks take equally many steps, no sample is left out and none is seen twice
    raw         where it helps, batches have raw inputs and SCALING, which `placed` normalises on a device: a quarter of the bytes
    workers     processes that make batches ahead, set before a pass; 0: they are made when they are asked for. Batches are the same:
                each is a function of its number

    For Lightning this is a stateful, sized iterable whose `state_dict()` its checkpoints hold; the learning room calls
    `set_epoch` before each pass. Given to a trainer directly, it is told the epoch by way of `batch_sampler`.
    """

    workers = 0
    raw = False

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        smallest: int = 2,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world}")
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.rank, self.world, self.smallest = rank, world, smallest
        self.epoch = 0
        self._bounds = self._split()
        self._cursor = 0  # batches given out in this epoch
        self._start = 0  # where the next iteration begins; other than 0 only after load_state_dict

    def _split(self) -> list[tuple[int, ...]]:
        """The bounds of every batch in the order of an epoch."""
        return batch_bounds(len(self.samples), self.batch_size, self.rank, self.world, self.smallest)

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Lightning tells the epoch to `sampler` or to `batch_sampler.sampler`. It takes a loader with a `sampler` for
        torch's own DataLoader when it evaluates, so there must be none."""
        return SimpleNamespace(sampler=self, batch_size=self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is. The epoch that the loader is in already changes nothing."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._cursor = self._start = 0

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches given out; the cursor is 0 again once the last batch has been."""
        return {"epoch": self.epoch, "cursor": self._cursor}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration begins at the cursor. Raises ValueError for a cursor beyond the end of the epoch."""
        cursor = state["cursor"]
        if not 0 <= cursor < max(len(self), 1):
            raise ValueError(f"cursor {cursor} does not fit a loader of {len(self)} batches")
        self.epoch = state["epoch"]
        self._cursor = self._start = cursor

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._start = self._start, 0
        self._cursor = start
        batch, last = self._epoch(), len(self) - 1
        numbers = range(start, last + 1)
        made = self._ahead(batch, numbers) if self.workers else map(batch, numbers)
        for index, whole in zip(numbers, made, strict=True):
            # Before the batch leaves: whoever saves state while working on it has begun this batch.
            self._cursor = 0 if index == last else index + 1
            yield whole

    def _ahead(self, batch: Callable[[int], dict[str, Any]], numbers: range) -> Iterator[dict[str, Any]]:
        """The batches of these numbers, made in other processes, in pinned memory where there is a GPU."""
        from torch.utils.data import DataLoader

        return iter(
            DataLoader(
                _Batches(batch),
                batch_size=None,
                sampler=numbers,
                num_workers=self.workers,
                multiprocessing_context="fork",  # samples are in memory once, for all
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # else it draws from the one that the run draws from
            )
        )

    def _epoch(self) -> Callable[[int], dict[str, Any]]:
        """The batches of this epoch by number."""
        samples, augment = self.samples, self.samples.augment
        view, key = 0, None
        order: Tensor | None = None
        if self.seed is not None:
            shuffled = randomness.order(randomness.key("order", self.seed, self.epoch), samples.ids.numpy())
            order = torch.from_numpy(shuffled)
            if augment is not None:
                view = augment.view(self.epoch)
                key = augment.key(self.seed, view)
        else:
            order = torch.arange(len(samples))
        ids, targets = samples.ids[order], samples.targets[order]
        labelled = None if samples.labelled is None else samples.labelled[order]
        scaling = samples.scaling if self.raw else None

        def batch(index: int) -> dict[str, Any]:
            first, end, size = self._bounds[index]
            made = {
                "ids": ids[first:end],
                **samples.shown(order[first:end], key, raw=scaling is not None),
                "targets": targets[first:end],
                "view": view,
                "size": size,
                **samples.mixed(order[first:end], key),
                **({} if scaling is None else {SCALING: scaling}),
            }
            if labelled is None:
                return made
            begin = first - first_of(size, self.rank, self.world)
            return made | known(labelled[begin : begin + size], labelled[first:end])

        return batch

    @property
    def full(self) -> int:
        """The size of a full batch over all ranks, in the unit of batch_size."""
        return min(self.batch_size, len(self.samples))

    def stream(self, places: np.ndarray, count: int) -> Any:
        """Some samples (positions int64 [n]) as they come step by step, `count` in each (see data.stream)."""
        return Stream(places, self.samples.ids[torch.from_numpy(places)].numpy(), count, self.seed)

    def part(self, rows: np.ndarray, turns: np.ndarray) -> dict[str, Any]:
        """This rank's part of a batch of the samples at these positions (int64 [B]), each changed at random as in the pass it is of
        (turns, int64 [B])."""
        samples, augment, size = self.samples, self.samples.augment, len(rows)
        first = first_of(size, self.rank, self.world)
        end = first_of(size, self.rank + 1, self.world)
        places, own, view = torch.from_numpy(rows[first:end]), turns[first:end], 0
        if augment is None or not augment.random:
            shown = {"inputs": samples.inputs(places)}
        elif augment.replayed:
            view = augment.view(self.epoch)
            shown = samples.shown(places, augment.key(self.seed, view))
        else:
            view = self.epoch
            passes, back = np.unique(own, return_inverse=True)
            seen = [samples.shown(places, augment.key(self.seed, int(turn))) for turn in passes]
            pass_of, place_of = torch.from_numpy(back), torch.arange(len(own))
            shown = {name: torch.stack([each[name] for each in seen])[pass_of, place_of] for name in seen[0]}
        whole = samples.labelled[torch.from_numpy(rows)]
        made = {
            "ids": samples.ids[places],
            **shown,
            "targets": samples.targets[places],
            "view": view,
            "size": size,
        }
        return made | known(whole, whole[first:end])

    def per_epoch(self) -> dict[str, int]:
        """{"labelled", "unlabelled"}: samples that the steps of an epoch have."""
        count, labelled = len(self.samples), self.samples.labelled
        with_one = count if labelled is None else int(labelled.sum())
        return {"labelled": with_one, "unlabelled": count - with_one}


class _Batches:
    """The batches of an epoch, as torch's DataLoader asks for them."""

    def __init__(self, batch: Callable[[int], dict[str, Any]]):
        self._batch = batch

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._batch(number)


class MaskedLoader(BatchLoader):
    """Batches of rows of different lengths. Every rank takes its part of the rows of every batch; one that gets none (fewer rows
    than ranks) has the first row with masks that are False throughout, so all ranks take equally many steps.

    A subclass has `_split`, giving (first, end) of every batch, and `_order`.

    samples  `batch(positions, sizes)`, and `sizes(positions)`: what sums of losses are divided by, over all ranks, by name
    MASKS    names of the masks of a batch
    """

    MASKS: tuple[str, ...] = ("mask",)

    def __init__(self, samples: Any, batch_size: int, *, seed: int | None = None, rank: int = 0, world: int = 1):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1")
        super().__init__(samples, batch_size, seed=seed, rank=rank, world=world)
        self._ordered: Any = None

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """This epoch's (positions of samples, numbers of batches): batch k is order[slice(*bounds[k])]."""
        raise NotImplementedError

    def _epoch(self) -> Callable[[int], dict[str, Any]]:
        order, numbers = self._order()
        return lambda index: self.part(order[slice(*self._bounds[numbers[index]])])

    def rows(self, index: int) -> np.ndarray:
        """int64 [b]: positions of the samples of a batch of this epoch, over all ranks."""
        if self._ordered is None or self._ordered[0] != self.epoch:
            self._ordered = self.epoch, *self._order()
        _, order, numbers = self._ordered
        return order[slice(*self._bounds[numbers[index]])]

    def part(self, rows: np.ndarray, turns: np.ndarray | None = None) -> dict[str, Any]:
        """This rank's rows of a batch; nothing of them is changed at random."""
        share, extra = divmod(len(rows), self.world)
        first = self.rank * share + min(self.rank, extra)
        own = rows[first : first + share + (self.rank < extra)]
        sizes = self.samples.sizes(rows)
        if len(own):
            return self.samples.batch(own, sizes)
        batch = self.samples.batch(rows[:1], sizes)
        for mask in self.MASKS:
            batch[mask].zero_()
        return batch


class SortedLoader(MaskedLoader):
    """Batches of `batch_size` samples of similar length: in training those of WINDOW batches, which are new in every epoch, are sorted,
    and the batches shuffled; in evaluation they come in the order of the source. samples: have `lengths`, int64 [n], too."""

    def _split(self) -> list[tuple[int, int]]:
        count, size = len(self.samples), self.batch_size
        return [(first, min(first + size, count)) for first in range(0, count, size)]

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.arange(len(self._bounds))
        if self.seed is None:
            return np.arange(len(self.samples)), numbers
        order = randomness.order(randomness.key("order", self.seed, self.epoch), self.samples.ids.numpy())
        for first in range(0, len(order), WINDOW * self.batch_size):
            members = order[first : first + WINDOW * self.batch_size]
            order[first : first + len(members)] = members[np.argsort(-self.samples.lengths[members], kind="stable")]
        return order, randomness.order(randomness.key("batches", self.seed, self.epoch), numbers)


def first_of(size: int, rank: int, world: int) -> int:
    """Where the part of a rank begins in a batch of this size, which is split as evenly as possible."""
    share, extra = divmod(size, world)
    return rank * share + min(rank, extra)


def known(whole: Tensor, part: Tensor) -> dict[str, Any]:
    """What a batch says of labels. whole: bool [B], which samples of all ranks have one; part: those of this rank."""
    return {"labelled": part, "sizes": {"mask": len(whole), "labelled": int(whole.sum())}}


def batch_bounds(
    count: int, batch_size: int, rank: int = 0, world: int = 1, smallest: int = 1
) -> list[tuple[int, int, int]]:
    """(first, end, size) for every batch: this rank's part of the order, and the size of the whole batch.

    Raises ValueError where a batch would not give every rank `smallest` samples (or one, on a single rank with
    batch_size 1).
    """
    least = smallest * world if (world > 1 or batch_size > 1) else 1
    if batch_size < least:
        raise ValueError(f"batch_size={batch_size} is too small for {world} ranks: at least {least}")
    edges = [*range(0, count, batch_size), count] if count else [0]
    if len(edges) > 2 and count - edges[-2] < least:
        del edges[-2]
    if world > 1 and 0 < count < least:
        raise ValueError(f"{count} samples are too few for {world} ranks: at least {least}")
    bounds = []
    for begin, stop in pairwise(edges):
        size = stop - begin
        share, extra = divmod(size, world)
        first = begin + rank * share + min(rank, extra)
        bounds.append((first, first + share + (rank < extra), size))
    return bounds
