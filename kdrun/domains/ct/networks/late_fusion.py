"""Late fusion: every view has an encoder of its own, and only their features meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from kdrun.networks.encoder import encoder as encoder_of
from kdrun.networks.encoder import logit_count
from kdrun.networks.output import logits_of

SEMANTICS = 1


class LateFusion(nn.Module):
    """One encoder of the same make for each channel (a view of the sample), their features side by side, linear.

    encoder: target node of a classifier of one channel with `_partial_: true`, as a student's `network` is; the last
        linear layer is left out.
    num_classes, in_channels, image_size: of the data. Two classes have one logit.

    forward: float [B, in_channels, ...] -> logits [B, num_classes], [B, 1] of two.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any] | Callable[..., nn.Module],
        num_classes: int = 10,
        in_channels: int = 2,
        image_size: int | tuple[int, ...] = 32,
    ) -> None:
        super().__init__()
        made = [encoder_of(encoder, num_classes, 1, image_size) for _ in range(in_channels)]
        self.encoders = nn.ModuleList(network for network, _ in made)
        self.head = nn.Linear(sum(features for _, features in made), logit_count(num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        views = images.split(1, dim=1)
        found = [logits_of(network(view)) for network, view in zip(self.encoders, views, strict=True)]
        return self.head(torch.cat(found, 1))
