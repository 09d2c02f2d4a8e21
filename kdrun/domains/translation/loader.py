"""Batches of sentence pairs of similar length under a budget of tokens. What comes when is a function of (seed, epoch)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kdrun.data import randomness
from kdrun.data.columns import Parts
from kdrun.data.loader import MaskedLoader
from kdrun.data.ragged import Ragged
from kdrun.data.stream import BatchStream, Subset

SIMILAR = 0.8
"""Pairs that are shuffled with each other are at least so long as this share of the longest among them."""


class TextSamples(Parts):
    """The encoded pairs of one split, in the order of the source.

    ids     int64 [n]
    source  Ragged, each row ending with eos
    target  Ragged, each row ending with eos
    pad     what rows are filled up with; bos: what the decoder starts from
    """

    def __init__(self, ids: np.ndarray, source: Ragged, target: Ragged, pad: int, bos: int):
        self.ids = torch.from_numpy(np.array(ids))
        self.source, self.target = source, target
        self.pad, self.bos = pad, bos

    KEPT = ("ids", "source", "target", "pad", "bos", "labelled")

    labelled: torch.Tensor | None = None
    """bool [n]: which samples have a label; None: all."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of the longer side, what a row of a batch is counted as."""
        return np.maximum(self.source.lengths(), self.target.lengths())

    def sizes(self, positions: np.ndarray) -> dict[str, int]:
        """Target tokens of these pairs; of those with a translation, where not all have one."""
        tokens = self.target.lengths(positions)
        known = {} if self.labelled is None else {"labelled": int(tokens[self.labelled.numpy()[positions]].sum())}
        return {"mask": int(tokens.sum()), **known}

    def batch(self, positions: np.ndarray, sizes: dict[str, int] | None = None) -> dict[str, Any]:
        """The pairs at these positions as a batch (see TokenLoader). sizes: those over all ranks, where not theirs."""
        sizes = self.sizes(positions) if sizes is None else sizes
        source, source_mask = map(torch.from_numpy, self.source.padded(positions, self.pad))
        targets, mask = map(torch.from_numpy, self.target.padded(positions, self.pad))
        start = torch.full((len(positions), 1), self.bos)
        return {
            "ids": self.ids[torch.from_numpy(positions)],
            "inputs": {
                "source": source,
                "source_mask": source_mask,
                "target": torch.cat([start, targets[:, :-1]], dim=1),
            },
            "targets": targets,
            "mask": mask,
            "view": 0,
            "size": sizes["mask"],
            **({} if self.labelled is None else {"labelled": self.labelled[positions], "sizes": sizes}),
        }


class TokenLoader(MaskedLoader):
    """Iterates one split as one of `world` ranks; resumes at any batch (see BatchLoader for how).

    A batch is a dict: "ids" int64 [b]; "inputs": source int64 [b, S], source_mask bool [b, S], target int64 [b, T]
    (what the decoder reads: bos y1 .. yT-1); "targets" int64 [b, T] (y1 .. yT-1 eos); "mask" bool [b, T] (where there is
    a target); "view" 0; "size": target positions of the batch over all ranks, what sums of losses are divided by. Where not all pairs
    have a translation also "labelled" bool [b] and "sizes": {"mask": size, "labelled": those of pairs that have one}; of a pair
    without one the first target position is there, which a teacher has something to say of.

    batch_size  most tokens of a batch over all ranks: rows times the longest sequence on either side, padding
                included. A pair that is longer by itself is a batch of its own
    seed        of the order; None: longest first, the same in every epoch (evaluation)

    Which pairs may come together is fixed by their lengths; within such a bucket, and among the batches, the order is
    new in every epoch. So the number of batches never changes, and only one batch of an epoch is not full.
    """

    def _split(self) -> list[tuple[int, int]]:
        similar = SIMILAR if self.seed is not None else 1.0
        self._sorted, self._buckets = buckets(self.samples.lengths, self.samples.ids.numpy(), self.batch_size, similar)
        return [
            (first, min(first + rows, end)) for begin, end, rows in self._buckets for first in range(begin, end, rows)
        ]

    @property
    def full(self) -> int:
        return self.batch_size

    def stream(self, places: np.ndarray, count: int) -> BatchStream:
        """Batches of at most `count` tokens."""
        return BatchStream(TokenLoader(Subset(self.samples, places), count, seed=self.seed), places)

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        order, numbers = self._sorted, np.arange(len(self._bounds))
        if self.seed is None:
            return order, numbers
        order = order.copy()
        key, ids = randomness.key("order", self.seed, self.epoch), self.samples.ids.numpy()
        for begin, end, _ in self._buckets:
            members = order[begin:end]
            order[begin:end] = members[randomness.order(key, ids[members])]
        return order, randomness.order(randomness.key("batches", self.seed, self.epoch), numbers)


def buckets(lengths: np.ndarray, ids: np.ndarray, budget: int, similar: float) -> tuple[np.ndarray, list[tuple]]:
    """(positions of samples, longest first; [(begin, end, rows per batch)] over them).

    The longest sample of a bucket sets how many rows its batches have. A bucket takes what is at least `similar` times
    as long, in whole batches, so that only the last batch of the last bucket is not full; and never less than one batch.
    Samples of equal length are in a random order of their ids.
    """
    order = randomness.order(randomness.key("length"), ids)
    order = order[np.argsort(-lengths[order], kind="stable")]
    ascending = np.ascontiguousarray(lengths[order][::-1])
    found, begin, count = [], 0, len(order)
    while begin < count:
        longest = int(lengths[order[begin]])
        rows = max(budget // longest, 1)
        like = count - int(np.searchsorted(ascending, longest * similar, side="left")) - begin
        end = min(begin + max(like // rows, 1) * rows, count)
        found.append((begin, end, rows))
        begin = end
    return order, found
