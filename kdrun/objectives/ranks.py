"""Tensors of all ranks, for losses that compare samples of the whole batch with each other, and for memories."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def number_of_ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def of_all_ranks(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, one after the other; they may differ in their first dimension. All ranks call this together."""
    return tensor if number_of_ranks() == 1 else torch.cat(_parts(tensor.detach()))


def whole_batch(features: Tensor) -> tuple[Tensor, slice]:
    """(features [B, ...] of the samples of all ranks, the rows of this rank's own), with gradients to those of all ranks.

    A loss over the whole batch gives the values of its own rows only. The gradients that the values of other ranks have by this
    rank's samples come back through here, so that averaging gradients over ranks gives the gradient of the whole batch.
    """
    if number_of_ranks() == 1:
        return features, slice(0, len(features))
    everything, first = _WholeBatch.apply(features)
    return everything, slice(int(first), int(first) + len(features))


class _WholeBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        parts = _parts(features.detach())
        first = sum(len(part) for part in parts[: torch.distributed.get_rank()])
        ctx.own = slice(first, first + len(features))
        place = torch.tensor(first)
        ctx.mark_non_differentiable(place)
        return torch.cat(parts), place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Tensor:
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient)
        return gradient[ctx.own]


def _parts(tensor: Tensor) -> list[Tensor]:
    distributed = torch.distributed
    sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    largest = max(int(size) for size in sizes)
    padded = torch.cat([tensor, tensor.new_zeros(largest - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]
