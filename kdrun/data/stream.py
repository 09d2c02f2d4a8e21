"""Samples that come again and again: which of them a step has is a function of (seed, step), so that a resume goes on with the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdrun.data import randomness


class Stream:
    """Passes over some samples, one after the other, each in an order of its own; every step takes the next `count` of them.

    places  int64 [n]: positions of the samples; ids: theirs
    Called with the number of a step it gives (positions int64 [count], the pass that each of them is of int64 [count]).
    """

    def __init__(self, places: np.ndarray, ids: np.ndarray, count: int, seed: int):
        self.places, self.ids, self.count, self.seed = places, ids, count, seed
        self._orders: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        turns, places = np.divmod(np.arange(step * self.count, (step + 1) * self.count), len(self.places))
        chosen = [self._order(turn)[places[turns == turn]] for turn in range(turns[0], turns[-1] + 1)]
        return self.places[np.concatenate(chosen)], turns

    def _order(self, turn: int) -> np.ndarray:
        if turn not in self._orders:
            self._orders = {known: order for known, order in self._orders.items() if known == turn - 1}
            self._orders[turn] = randomness.order(randomness.key("order", self.seed, turn), self.ids)
        return self._orders[turn]


class BatchStream:
    """The batches of a loader over some samples, epoch after epoch of its own. places: where its samples are among all."""

    def __init__(self, loader: Any, places: np.ndarray):
        self.loader, self.places = loader, places
        self.count = len(places) / len(loader)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        turn, index = divmod(step, len(self.loader))
        self.loader.set_epoch(turn)
        rows = self.places[self.loader.rows(index)]
        return rows, np.full(len(rows), turn)


class Subset:
    """Some samples of a split (at `places`, int64 [n]), as loaders of rows of different lengths ask for them."""

    labelled = None

    def __init__(self, samples: Any, places: np.ndarray):
        self._samples, self._places = samples, places
        self.ids, self.lengths = samples.ids[places], samples.lengths[places]

    def __len__(self) -> int:
        return len(self.ids)

    def sizes(self, positions: np.ndarray) -> dict[str, int]:
        return self._samples.sizes(self._places[positions])

    def batch(self, positions: np.ndarray, sizes: dict[str, int] | None = None) -> dict[str, Any]:
        return self._samples.batch(self._places[positions], sizes)
