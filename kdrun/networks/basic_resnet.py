"""Residual networks of basic blocks at paper scale: ResNet-18 and 34 (arXiv 1512.03385, 1603.05027), ResNet-19 (arXiv 2011.05280)."""

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.initial import he_normal

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
        side = image_size if isinstance(image_size, int) else min(image_size)
        if large and side < 64:
            raise ValueError(f"large=true is for images of 64x64 and more, got {side}")
        channels, stages, block = STAGES[depth][0][0], [], PreactBlock if preact else BasicBlock
        kernel, stride = (7, 2) if large else (3, 1)
        self.stem = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.pool: nn.Module = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        side = side // 4 if large else side
        self.preact, first = preact, channels
        for number, (width, blocks) in enumerate(STAGES[depth]):
            stride = 2 if number > 0 and side >= 4 else 1
            side = (side + stride - 1) // stride
            stages.append(
                nn.Sequential(block(channels, width, stride), *(block(width, width) for _ in range(blocks - 1)))
            )
            channels = width
        self.norm = nn.BatchNorm2d(channels if preact else first)
        for number, stage in enumerate(stages, 1):
            self.add_module(f"stage{number}", stage)
        self.stages = len(stages)
        self.hidden: nn.Module = nn.Linear(channels, HIDDEN) if depth == 19 else nn.Identity()
        self.head = nn.Linear(HIDDEN if depth == 19 else channels, num_classes)
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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added: [B, C, H, W] -> [B, out_channels, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(maps)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(maps))


class PreactBlock(nn.Module):
    """The same with normalisation and activation before each convolution; where the shape changes, the shortcut follows the first of them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        active = functional.relu(self.norm1(maps))
        inner = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        return inner + (maps if self.shortcut is None else self.shortcut(active))
