"""Memory keyed by sample id, for losses with state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        ids, values = _of_all_ranks(ids), _of_all_ranks(values.detach().to(self.rows.dtype))
        places = self._places(ids)
        self.rows[places] = values
        self.written[places] = True

    def _places(self, ids: Tensor) -> Tensor:
        places = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        if not torch.equal(self.ids[places], ids):
            raise KeyError(f"sample id {int(ids[self.ids[places] != ids][0])} is none of training")
        return places


def _of_all_ranks(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, one after the other; they may differ in their first dimension."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return tensor
    sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    largest = max(int(size) for size in sizes)
    padded = torch.cat([tensor, tensor.new_zeros(largest - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])
