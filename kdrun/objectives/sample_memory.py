"""Memory keyed by sample id, for losses with state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.objectives.ranks import of_all_ranks


class RowMemory(nn.Module):
    """One row per training sample. Its buffers are in checkpoints, so that a resume goes on with the same bits, and are the same
    on all ranks. No part of what is kept of a student.

    ids: int64 [N], ascending: `sample_ids`, which kdrun gives to the class of a loss. shape: of a row; fill: before it is written.
    """

    def __init__(self, ids: Tensor, *shape: int, fill: float = 0.0):
        super().__init__()
        self.register_buffer("ids", ids.to(torch.int64))
        self.register_buffer("rows", torch.full((len(ids), *shape), fill))
        self.register_buffer("written", torch.zeros(len(ids), dtype=torch.bool))

    def read(self, ids: Tensor) -> Tensor:
        """float32 [B, ...]: the rows of samples, without a gradient. Raises KeyError for an id that is none of training."""
        return self.rows[self._places(ids)]

    def has(self, ids: Tensor) -> Tensor:
        """bool [B]: whether the row of each sample has been written."""
        return self.written[self._places(ids)]

    @torch.no_grad()
    def write(self, ids: Tensor, values: Tensor) -> None:
        """Replaces the rows of samples; of those that other ranks write at the same time, too: all ranks call this together. Of an id that comes
        twice the last one of the highest rank stays."""
        ids, values = of_all_ranks(ids), of_all_ranks(values.detach().to(self.rows.dtype))
        places = self._places(ids)
        self.rows[places] = values
        self.written[places] = True

    def _places(self, ids: Tensor) -> Tensor:
        places = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        known = self.ids[places] == ids
        if ids.device.type != "cpu":
            torch._assert_async(known.all())  # without waiting for the device
        elif not bool(known.all()):
            raise KeyError(f"sample id {int(ids[~known][0])} is none of training")
        return places
