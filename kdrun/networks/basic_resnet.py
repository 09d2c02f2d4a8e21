"""Residual networks of basic blocks at paper scale: ResNet-18 and 34 (arXiv 1512.03385, 1603.05027), ResNet-19 (arXiv 2011.05280)."""

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.initial import he_normal
from kdrun.networks.resnet import BasicBlock
from kdrun.networks.stages import shorter, stages
from kdrun.networks.wide_resnet import PreactBlock

SEMANTICS = 1

STAGES = {
    18: ((64, 2), (128, 2), (256, 2), (512, 2)),
    19: ((128, 3), (256, 3), (512, 2)),
    34: ((64, 3), (128, 4), (256, 6), (512, 3)),
}
"""Depth -> (channels, blocks) of each stage."""
HIDDEN = 256  # units of the hidden layer that ResNet-19 has before its last one


class BasicResNet(nn.Module):
    """Stages of basic blocks, mean over the map, linear; shortcuts are a 1x1 convolution where a block changes the shape.

    depth: 18, 34, or 19: the network of spiking papers (tdBN), three stages from 128 channels on and a hidden layer of 256 units.
    preact: batch normalisation and activation before each convolution, and once more after the last block.
    large: for images of 64x64 and more: a 7x7 convolution of stride 2 and max pooling come first; else one 3x3 convolution of stride 1.
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). Every stage but the first halves the map, while at least 2x2 positions remain.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        depth: int = 18,
        preact: bool = False,
        large: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, got {depth}")
        side = shorter(image_size)
        if large and side < 64:
            raise ValueError(f"large=true is for images of 64x64 and more, got {side}")
        first, last = STAGES[depth][0][0], STAGES[depth][-1][0]
        kernel, stride = (7, 2) if large else (3, 1)
        self.stem = nn.Conv2d(in_channels, first, kernel, stride, padding=kernel // 2, bias=False)
        self.pool: nn.Module = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        self.preact, self.stages = preact, len(STAGES[depth])
        block = PreactBlock if preact else BasicBlock
        made = stages(block, first, STAGES[depth], side // 4 if large else side)
        self.norm = nn.BatchNorm2d(last if preact else first)
        for number, stage in enumerate(made, 1):
            self.add_module(f"stage{number}", stage)
        self.hidden: nn.Module = nn.Linear(last, HIDDEN) if depth == 19 else nn.Identity()
        self.head = nn.Linear(HIDDEN if depth == 19 else last, num_classes)
        he_normal(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        maps = self.pool(maps if self.preact else functional.relu(self.norm(maps)))
        for number in range(1, self.stages + 1):
            maps = getattr(self, f"stage{number}")(maps)
        if self.preact:
            maps = functional.relu(self.norm(maps))
        features = maps.mean((2, 3))
        if isinstance(self.hidden, nn.Linear):
            features = functional.relu(self.hidden(features))
        return self.head(features)
