"""Volumes slice by slice: a 2-D network sees every slice with its neighbours (2.5-D), and what it finds is pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from kdrun.networks.encoder import encoder as encoder_of
from kdrun.networks.encoder import logit_count
from kdrun.networks.output import logits_of

SEMANTICS = 1


class Slicewise(nn.Module):
    """One 2-D encoder for all slices of a volume, the mean or the maximum of its features over slices, linear.

    encoder: target node of a 2-D classifier with `_partial_: true`; its last linear layer is left out.
    context: neighbouring slices on either side that the encoder sees as further channels; beyond the ends the outermost
        slice is repeated.
    pool: "mean" or "max" over slices.
    num_classes, in_channels, image_size: of the data. Two classes have one logit.

    forward: float [B, in_channels, D, H, W] -> logits [B, num_classes], [B, 1] of two. An image [B, in_channels, H, W]
    is a volume of one slice. The encoder sees slices as [B * D, ...], those of a sample one after the other.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any] | Callable[..., nn.Module],
        context: int = 1,
        pool: str = "mean",
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int | tuple[int, ...] = 32,
    ) -> None:
        super().__init__()
        if context < 0:
            raise ValueError(f"context must be at least 0, got {context}")
        if pool not in ("mean", "max"):
            raise ValueError(f'pool must be "mean" or "max", got {pool!r}')
        self.context, self.pool = context, pool
        plane = image_size if isinstance(image_size, int) else tuple(image_size[-2:])
        self.encoder, features = encoder_of(encoder, num_classes, in_channels * (2 * context + 1), plane)
        self.head = nn.Linear(features, logit_count(num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        volumes = images.unsqueeze(2) if images.ndim == 4 else images
        slices = self.slices(volumes)
        features = logits_of(self.encoder(slices.flatten(0, 1))).unflatten(0, slices.shape[:2])
        return self.head(features.mean(1) if self.pool == "mean" else features.amax(1))

    def slices(self, volumes: torch.Tensor) -> torch.Tensor:
        """[B, C, D, H, W] -> [B, D, (2 context + 1) C, H, W]: all channels of one neighbour, then those of the next."""
        depth = volumes.shape[2]
        places = torch.arange(depth, device=volumes.device)
        offsets = range(-self.context, self.context + 1)
        shifted = [volumes.index_select(2, (places + offset).clamp(0, depth - 1)) for offset in offsets]
        return torch.cat(shifted, 1).transpose(1, 2)
