"""Residual networks for small images, after He et al. 2016 (arXiv 1512.03385), section 4.2."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.initial import he_normal
from kdrun.networks.stages import shorter, stages

SEMANTICS = 1


class ResNet(nn.Module):
    """The paper's CIFAR-10 network: a 3x3 convolution, three stages of n basic blocks, mean over the map, linear.

    depth: 6n + 2 weighted layers (8, 14, 20, 32, 56, 110 ...).
    width: channels of the first stage; the next two have 2 and 4 times as many (16 in the paper: 16, 32, 64).
    shortcut: "A" pads new channels with zeros and has no parameters (what the paper uses for CIFAR-10), "B" is a 1x1
        convolution with batch norm.
    stem: channels of the first convolution; None: `width`. The networks "8x4" and "32x4" of the literature on distillation
        have 32 here and 64, 128, 256 in their stages (arXiv 1910.10699).
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). The first block of stages 2 and 3 halves the map, but only
        while at least 2x2 positions remain: 32x32 ends at 8x8, 28x28 at 7x7, the 8x8 digits at 2x2, 4x4 also at 2x2.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        depth: int = 20,
        width: int = 16,
        shortcut: str = "A",
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        stem: int | None = None,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, 32, 56 ...), got {depth}")
        if width < 1 or (stem is not None and stem < 1):
            raise ValueError(f"width and stem must be at least 1, got {width} and {stem}")
        if shortcut not in ("A", "B"):
            raise ValueError(f'shortcut must be "A" or "B", got {shortcut!r}')
        channels, blocks = stem or width, (depth - 2) // 6
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        plan = [(factor * width, blocks) for factor in (1, 2, 4)]
        block = partial(BasicBlock, shortcut=shortcut)
        self.stage1, self.stage2, self.stage3 = stages(block, channels, plan, shorter(image_size))
        self.head = nn.Linear(4 * width, num_classes)
        he_normal(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = functional.relu(self.norm(self.stem(images)))
        maps = self.stage3(self.stage2(self.stage1(maps)))
        return self.head(maps.mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added: [B, C, H, W] -> [B, out_channels, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            if shortcut == "A":
                self.shortcut = PaddedShortcut(out_channels - in_channels, stride)
            else:
                convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
                self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(maps)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(maps))


class PaddedShortcut(nn.Module):
    """Option A of the paper: every stride-th position, and zeros for the channels that are new."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
