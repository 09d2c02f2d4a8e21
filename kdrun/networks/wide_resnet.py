"""Wide residual networks for small images, after Zagoruyko and Komodakis 2016 (arXiv 1605.07146)."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.initial import he_normal
from kdrun.networks.stages import shorter, stages

SEMANTICS = 1


class WideResNet(nn.Module):
    """WRN-depth-widen: three stages of pre-activation basic blocks with 16, 32 and 64 times `widen` channels, mean over the map,
    linear.

    depth: 6n + 4 (16, 22, 28, 40 ...).
    widen: factor on the channels of the stages; the first convolution has 16 in any case.
    dropout: probability between the two convolutions of a block.
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). Stages 2 and 3 halve the map, but only while at least 2x2 positions remain.

    What a stage gives has not passed the norm and ReLU that follow it.
    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        depth: int = 16,
        widen: int = 2,
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n >= 1 (10, 16, 22, 28, 40 ...), got {depth}")
        if widen < 1:
            raise ValueError(f"widen must be at least 1, got {widen}")
        plan = [(width * widen, (depth - 4) // 6) for width in (16, 32, 64)]
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        block = partial(PreactBlock, dropout=dropout)
        self.stage1, self.stage2, self.stage3 = stages(block, 16, plan, shorter(image_size))
        self.norm = nn.BatchNorm2d(64 * widen)
        self.head = nn.Linear(64 * widen, num_classes)
        nn.init.zeros_(self.head.bias)
        he_normal(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.head(functional.relu(self.norm(maps)).mean((2, 3)))


class PreactBlock(nn.Module):
    """Twice norm, ReLU and a 3x3 convolution, around which the input is added: [B, C, H, W] -> [B, out_channels, H/stride, W/stride].

    Where the number of channels changes, a 1x1 convolution of the activated input is added in its place.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        active = functional.relu(self.norm1(maps))
        inner = self.dropout(functional.relu(self.norm2(self.conv1(active))))
        return self.conv2(inner) + (maps if self.shortcut is None else self.shortcut(active))
