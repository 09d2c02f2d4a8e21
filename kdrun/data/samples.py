"""The samples of one split as tensors: raw inputs in memory or mapped, turned into network inputs on demand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.data import randomness
from kdrun.data.host import MOVES

IN_MEMORY_BYTES = 1 << 30  # larger sets of raw pixels stay memory-mapped
PREPARED_BYTES = 256 << 20  # splits smaller than this as float32 are normalised once, if nothing is augmented


def tensor_of(array: np.ndarray) -> Tensor:
    """The raw inputs of all samples, uint8 or float32 [N, ...]; a memory map stays one if it is large."""
    if isinstance(array, np.memmap) and array.nbytes <= IN_MEMORY_BYTES:
        array = np.array(array)
    elif not array.flags.writeable and not isinstance(array, np.memmap):
        array = array.copy()
    return torch.from_numpy(array)


class Samples:
    """One split: `ids` int64 [n] and `targets` [n] in the order of the source (int64 classes, or float32), and their inputs.

    raw        all samples of the source, [N, C, ...]: images [N, C, H, W], rows of a table [N, F]
    rows       int64 [n]: which of them belong to this split
    mean, std  per channel (axis 1), of uint8 pixels scaled to 0..1
    augment    what is done to raw samples when a key is given (as images.augment.Augment), or None
    labelled   bool [n]: which of them have a label; None: all
    """

    def __init__(
        self,
        raw: Tensor,
        rows: Tensor,
        ids: Tensor,
        targets: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Any = None,
        labelled: Tensor | None = None,
    ):
        self.ids, self.targets, self.labelled = ids, targets, labelled
        self.augment = augment
        self._raw, self._rows = raw, rows
        self._factor, self._offset = _scaling(raw, mean, std)
        self._prepared: Tensor | None = None
        small = len(rows) * raw.shape[1:].numel() * 4 <= PREPARED_BYTES
        if small and (augment is None or not augment.random):
            self._prepared = self._normalised(raw.index_select(0, rows))

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, positions: Tensor, key: int | None = None) -> Tensor:
        """float32 [b, C, ...] of the samples at these positions of the split, augmented under `key` if there is one.

        The same sample under the same key gives the same bits in every batch.
        """
        if self._prepared is not None:
            return self._prepared.index_select(0, positions)
        made = self._normalised(self.raw(positions, key))
        if key is None or not getattr(self.augment, "mixes", None):
            return made
        partners = self._partners(positions, key)
        others = self.augment(self._raw.index_select(0, self._rows[partners]), self.ids[partners], key)
        return self.augment.mixes(made, self._normalised(others), key, self.ids[positions].numpy())

    def shown(self, positions: Tensor, key: int | None, raw: bool = False) -> dict[str, Any]:
        """{"inputs"} as `inputs` gives them, and beside them, by name, the same samples in each further view of the augmentation.
        raw: the inputs as `raw` gives them, before what "moves" beside them says (see host.MOVES) where that is all that is done to them."""
        further = {} if key is None else getattr(self.augment, "further", {})
        chosen = self._raw.index_select(0, self._rows[positions]) if further else None
        moves = (
            self.augment.moves(self.ids[positions], key)
            if raw and key is not None and hasattr(self.augment, "moves")
            else None
        )
        if moves is not None:
            whole = self._raw.index_select(0, self._rows[positions]) if chosen is None else chosen
            inputs = {"inputs": whole, MOVES: moves}
        else:
            inputs = {"inputs": (self.raw if raw else self.inputs)(positions, key)}
        return inputs | {
            name: self._normalised(augment(chosen, self.ids[positions], randomness.key(name, key)))
            for name, augment in further.items()
        }

    def raw(self, positions: Tensor, key: int | None = None) -> Tensor:
        """As `inputs`, but neither normalised nor mixed: of the type of the source."""
        chosen = self._raw.index_select(0, self._rows[positions])
        return chosen if key is None else self.augment(chosen, self.ids[positions], key)

    @property
    def scaling(self) -> tuple[Tensor, Tensor] | None:
        """(factor, offset) that make `inputs` of `raw`; None where that is no help: these are as large, or are mixed."""
        mixes = getattr(self.augment, "mixes", None)
        return None if mixes or self._raw.dtype != torch.uint8 else (self._factor, self._offset)

    def mixed(self, positions: Tensor, key: int | None) -> dict[str, Tensor]:
        """What a batch of mixed samples has beside their labels: "mixed_targets" [b], those of what they are mixed with, and "mixed_share"
        float32 [b], the share of the samples themselves; nothing where none are mixed."""
        mixes = getattr(self.augment, "mixes", None)
        if key is None or not mixes:
            return {}
        share, _ = mixes.shares(key, self.ids[positions].numpy(), *self._raw.shape[-2:])
        return {"mixed_targets": self.targets[self._partners(positions, key)], "mixed_share": torch.from_numpy(share)}

    def _partners(self, positions: Tensor, key: int) -> Tensor:
        return torch.from_numpy(self.augment.mixes.partners(key, self.ids[positions].numpy(), len(self)))

    def batch(self, positions: np.ndarray) -> dict[str, Any]:
        """{"ids", "inputs", "targets"} of the samples at these positions (int64 [b]), nothing augmented."""
        rows = torch.from_numpy(positions)
        return {"ids": self.ids[rows], "inputs": self.inputs(rows), "targets": self.targets[rows]}

    def _normalised(self, raw: Tensor) -> Tensor:
        return raw.to(torch.float32, copy=True).mul_(self._factor).add_(self._offset)


def normalised(raw: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """float32 [b, C, ...] of raw inputs, uint8 or float32, as Samples give them."""
    tensor = torch.from_numpy(raw)
    factor, offset = _scaling(tensor, mean, std)
    return tensor.to(torch.float32, copy=True).mul_(factor).add_(offset)


def _scaling(raw: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """(factor, offset), float32 [1, C, 1 ...], that normalise raw inputs [N, C, ...]."""
    scale, shape = 1 / 255 if raw.dtype == torch.uint8 else 1.0, (1, -1, *[1] * (raw.ndim - 2))
    deviation = torch.tensor(std, dtype=torch.float64)
    offset = -torch.tensor(mean, dtype=torch.float64) / deviation
    return (scale / deviation).float().view(shape), offset.float().view(shape)
