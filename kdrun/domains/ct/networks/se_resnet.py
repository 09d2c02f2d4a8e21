"""A small residual network with squeeze and excitation for images and volumes.

Blocks of He et al. 2016 (arXiv 1512.03385), figure 2, whose channels are reweighted as in Hu et al. 2018
(arXiv 1709.01507), section 3 and figure 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.encoder import logit_count
from kdrun.networks.initial import he_normal

SEMANTICS = 1

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
GROUPS, FEWEST = 8, 4


class SEResNet(nn.Module):
    """A 3x3(x3) convolution, one stage of residual blocks for each width, mean over the map, linear.

    widths: channels of each stage. blocks: residual blocks of each stage. The convolution and the first block of every
        stage halve each axis of which at least four positions remain: 32x32 and 16x32x32 end at 4x4 and 4x4x4.
    reduction: channels for each hidden unit of squeeze and excitation (16 in the paper, whose layers are wide).
    norm: "batch", or "group" (8 groups, or as many as divide the channels), which small batches do not disturb.
    num_classes, in_channels: of the data. Two classes have one logit: see `encoder.logit_count`.
    image_size: side of a square image, or the sides: two of an image, three of a volume.
    dimensions: 2 or 3; null: as many as image_size has sides, 2 where it is one number.

    forward: float [B, in_channels, H, W] or [B, in_channels, D, H, W] -> logits [B, num_classes], [B, 1] of two.
    """

    def __init__(
        self,
        widths: Sequence[int] = (8, 16, 32),
        blocks: int = 1,
        reduction: int = 4,
        norm: str = "batch",
        dimensions: int | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, ...] = 32,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or blocks < 1 or reduction < 1:
            raise ValueError(
                f"widths, blocks and reduction must be at least 1, got {list(widths)}, {blocks}, {reduction}"
            )
        if norm not in ("batch", "group"):
            raise ValueError(f'norm must be "batch" or "group", got {norm!r}')
        several = not isinstance(image_size, int)
        dimensions = dimensions or (len(image_size) if several else 2)
        if dimensions not in CONVOLUTIONS or (several and len(image_size) != dimensions):
            raise ValueError(f"dimensions must be 2 or 3 and fit image_size={image_size}, got {dimensions}")
        sides = list(image_size) if several else [image_size] * dimensions
        convolution = CONVOLUTIONS[dimensions]
        strides, sides = halved(sides)
        self.stem = convolution(in_channels, widths[0], 3, strides, padding=1, bias=False)
        self.norm = norm_layer(norm, widths[0], dimensions)
        channels, stages = widths[0], []
        for width in widths:
            strides, sides = halved(sides)
            for number in range(blocks):
                stride = strides if number == 0 else (1,) * dimensions
                stages.append(SEBlock(channels, width, stride, reduction, norm))
                channels = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, logit_count(num_classes))
        he_normal(self, convolution)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stages(functional.relu(self.norm(self.stem(images))))
        return self.head(maps.flatten(2).mean(2))


class SEBlock(nn.Module):
    """Two 3x3(x3) convolutions and excitation, around which the input is added: [B, C, ...] -> [B, out_channels, ...].

    stride: of each axis. Where the shape changes the input goes through a strided 1x1(x1) convolution (option B).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, ...], reduction: int, norm: str) -> None:
        super().__init__()
        dimensions = len(stride)
        convolution = CONVOLUTIONS[dimensions]
        self.shortcut: nn.Module = nn.Identity()
        if max(stride) > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                convolution(in_channels, out_channels, 1, stride, bias=False),
                norm_layer(norm, out_channels, dimensions),
            )
        self.conv1 = convolution(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = norm_layer(norm, out_channels, dimensions)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, out_channels, dimensions)
        hidden = max(2, out_channels // reduction)
        self.squeeze, self.excite = nn.Linear(out_channels, hidden), nn.Linear(hidden, out_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        kept = self.shortcut(maps)  # first, so that the last convolution of a network is that of its own path
        inner = functional.relu(self.norm1(self.conv1(maps)))
        inner = self.norm2(self.conv2(inner))
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(inner.flatten(2).mean(2)))))
        return functional.relu(inner * gate.reshape(*gate.shape, *(1,) * (inner.ndim - 2)) + kept)


def halved(sides: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
    """(stride of each axis, sides after it): 2 where at least FEWEST positions remain."""
    strides = tuple(2 if (side + 1) // 2 >= FEWEST else 1 for side in sides)
    return strides, [(side + stride - 1) // stride for side, stride in zip(sides, strides, strict=True)]


def norm_layer(kind: str, channels: int, dimensions: int) -> nn.Module:
    """Batch norm, or group norm (arXiv 1803.08494) in at most 8 groups of equal size."""
    if kind == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    return BATCH_NORMS[dimensions](channels)
