"""The samples of one split as tensors: raw pixels in memory or mapped, turned into network inputs on demand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdrun.domains.images.augment import Augment
from kdrun.domains.images.source import Images

IN_MEMORY_BYTES = 1 << 30  # larger sets of raw pixels stay memory-mapped
PREPARED_BYTES = 256 << 20  # splits smaller than this as float32 are normalised once, if nothing is augmented


def pixels_of(images: Images) -> Tensor:
    """The raw pixels of all samples, uint8 or float32 [N, C, H, W] (of tables float32 [N, F]); a memory map stays one if it is large."""
    array = images.x
    if isinstance(array, np.memmap) and array.nbytes <= IN_MEMORY_BYTES:
        array = np.array(array)
    elif not array.flags.writeable and not isinstance(array, np.memmap):
        array = array.copy()
    return torch.from_numpy(array)


class Samples:
    """One split: `ids` int64 [n] and `targets` [n] in the order of the source (int64, of tables float32), and their inputs.

    pixels     all samples of the source, [N, C, H, W], or rows of a table [N, F]
    rows       int64 [n]: which of them belong to this split
    mean, std  per channel, of pixels scaled to 0..1
    augment    what is done to raw pixels when a key is given, or None
    """

    def __init__(
        self,
        pixels: Tensor,
        rows: Tensor,
        ids: Tensor,
        targets: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Augment | None = None,
    ):
        self.ids, self.targets = ids, targets
        self.augment = augment
        self._pixels, self._rows = pixels, rows
        scale = 1 / 255 if pixels.dtype == torch.uint8 else 1.0
        deviation = torch.tensor(std, dtype=torch.float64)
        self._factor = (scale / deviation).float().view(1, -1, *[1] * (pixels.ndim - 2))
        self._offset = (
            (-torch.tensor(mean, dtype=torch.float64) / deviation).float().view(1, -1, *[1] * (pixels.ndim - 2))
        )
        self._prepared: Tensor | None = None
        small = len(rows) * pixels.shape[1:].numel() * 4 <= PREPARED_BYTES
        if small and (augment is None or not augment.random):
            self._prepared = self._normalised(pixels.index_select(0, rows))

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, positions: Tensor, key: int | None = None) -> Tensor:
        """float32 [b, C, H, W] of the samples at these positions of the split, augmented under `key` if there is one.

        The same sample under the same key gives the same bits in every batch.
        """
        if self._prepared is not None:
            return self._prepared.index_select(0, positions)
        images = self._pixels.index_select(0, self._rows[positions])
        if key is not None:
            images = self.augment(images, self.ids[positions], key)
        return self._normalised(images)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, copy=True).mul_(self._factor).add_(self._offset)
