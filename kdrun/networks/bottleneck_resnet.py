"""Residual networks of bottleneck blocks for small images, after He et al. 2016 (arXiv 1512.03385), table 1."""

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.initial import he_normal
from kdrun.networks.stages import shorter, stages

SEMANTICS = 1

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Depth -> blocks of each stage."""
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4


class BottleneckResNet(nn.Module):
    """The paper's ImageNet network with the first layers of its CIFAR networks: one 3x3 convolution of stride 1 and no pooling,
    as RepDistiller has it (arXiv 1910.10699).

    depth: 50, 101 or 152.
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). Stages 2 to 4 halve the map, but only while at least 2x2 positions remain.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, got {depth}")
        self.stem = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        plan = zip(WIDTHS, BLOCKS[depth], strict=True)
        made = stages(Bottleneck, WIDTHS[0], plan, shorter(image_size), expansion=EXPANSION)
        self.stage1, self.stage2, self.stage3, self.stage4 = made
        self.head = nn.Linear(EXPANSION * WIDTHS[-1], num_classes)
        he_normal(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = functional.relu(self.norm(self.stem(images)))
        maps = self.stage4(self.stage3(self.stage2(self.stage1(maps))))
        return self.head(maps.mean((2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around which the input is added: [B, C, H, W] -> [B, 4 * width, H/stride, W/stride]."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(maps)))
        inner = functional.relu(self.norm2(self.conv2(inner)))
        return functional.relu(self.norm3(self.conv3(inner)) + self.shortcut(maps))
