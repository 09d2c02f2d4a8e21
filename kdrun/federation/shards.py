"""The samples of one client, or those that are public: batches of them, in an order that depends on seeds alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.data import randomness
from kdrun.data.loader import batch_bounds


class Shard:
    """Some samples of a split of a data module.

    samples    of the split (data.samples.Samples, or what has its ids, targets and inputs())
    positions  int64 [n]: which of them
    targets    [n] in place of their own (labels that were flipped, or withheld)
    flipped    bool [n]: whose label is wrong, None where none is
    change     applied to all inputs (a shift of the client's); it gets and gives float [B, ...]

    A batch is {"ids" int64 [b], "inputs" float [b, ...], "targets" [b], "positions" int64 [b]: places in
    this shard}, and "size" where it is trained on.
    """

    def __init__(
        self,
        samples: Any,
        positions: np.ndarray,
        *,
        targets: Tensor | None = None,
        flipped: np.ndarray | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ):
        self.rows = torch.from_numpy(np.asarray(positions, np.int64))
        self.device = torch.device(device)
        self.ids = samples.ids[self.rows]
        self.targets = (samples.targets[self.rows] if targets is None else targets).to(self.device)
        self.flipped = None if flipped is None or not flipped.any() else torch.from_numpy(flipped)
        self._samples, self._change = samples, change
        augment = getattr(samples, "augment", None)
        self._augment = augment if augment is not None and augment.random else None
        self._inputs = None if self._augment is not None else self._changed(samples.inputs(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fixed(self) -> bool:
        """Whether a sample has the same inputs in every batch."""
        return self._inputs is not None

    def bounds(self, size: int) -> list[tuple[int, int, int]]:
        """(first, end, size) of each batch of a pass; a last one of one sample joins the one before."""
        return batch_bounds(len(self), size, smallest=2)

    def batches(self, size: int, seed: int, epoch: int) -> Iterator[dict[str, Any]]:
        """All samples once, shuffled: a function of (seed, epoch)."""
        order = torch.from_numpy(randomness.order(randomness.key("order", seed, epoch), self.ids.numpy()))
        key = None if self._augment is None else self._augment.key(seed, self._augment.view(epoch))
        ids, targets = self.ids[order], self.targets.index_select(0, order.to(self.device))
        inputs = None if self._inputs is None else self._inputs.index_select(0, order.to(self.device))
        for first, end, _ in self.bounds(size):
            positions = order[first:end]
            yield {
                "ids": ids[first:end],
                **(self.shown(positions, key) if inputs is None else {"inputs": inputs[first:end]}),
                "targets": targets[first:end],
                "positions": positions,
                "size": end - first,
            }

    def whole(self, size: int) -> Iterator[dict[str, Any]]:
        """All samples once in the order of the source, nothing augmented."""
        for first in range(0, len(self), size):
            positions = torch.arange(first, min(first + size, len(self)))
            yield {
                "ids": self.ids[first : first + size],
                # A copy: a network may change its inputs in place.
                "inputs": self.drawn(positions, None)
                if self._inputs is None
                else self._inputs[first : first + size].clone(),
                "targets": self.targets[first : first + size],
                "positions": positions,
            }

    def drawn(self, positions: Tensor, key: int | None) -> Tensor:
        """Inputs [b, ...] at these positions of the shard, augmented by `key` (None: as they are), as this client sees them."""
        return self._changed(self._samples.inputs(self.rows[positions], key))

    def shown(self, positions: Tensor, key: int | None) -> dict[str, Tensor]:
        """As `drawn`, with further views of the samples (data.samples.Samples.shown)."""
        return {name: self._changed(x) for name, x in self._samples.shown(self.rows[positions], key).items()}

    def _changed(self, inputs: Tensor) -> Tensor:
        return (inputs if self._change is None else self._change(inputs)).to(self.device)
