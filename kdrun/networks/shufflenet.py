"""ShuffleNet of both versions for small images (arXiv 1707.01083 and 1807.11164): networks of grouped and depthwise convolutions.

As in RepDistiller (arXiv 1910.10699) for CIFAR: the first layer is a 1x1 convolution of stride 1, without pooling.
"""

import torch
from torch import nn
from torch.nn import functional

from kdrun.networks.stages import shorter, stages

SEMANTICS = 1

STEM = 24
WIDTHS_V1 = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
"""Groups -> channels of each stage: table 1 of arXiv 1707.01083."""
WIDTHS_V2 = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
"""Width -> channels of each stage and of the last convolution: table 5 of arXiv 1807.11164."""
BLOCKS = (4, 8, 4)
"""Of each stage, in both versions."""


class ShuffleNetV1(nn.Module):
    """Three stages of bottlenecks whose 1x1 convolutions are in groups and whose channels are shuffled, mean over the map, linear.

    groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8. RepDistiller has 3.
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). Each stage halves the map, but only while at least 2x2 positions remain.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        groups: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        if groups not in WIDTHS_V1:
            raise ValueError(f"groups must be one of {', '.join(map(str, WIDTHS_V1))}, got {groups}")
        self.stem = _unit(in_channels, STEM, 1)

        def block(channels: int, width: int, stride: int) -> nn.Module:
            if channels == width:
                return GroupedBlock(width, width, stride, groups, groups)
            # Groups of the few channels of the stem would be too narrow (section 3.2).
            return GroupedBlock(channels, width - channels, stride, groups, 1 if channels == STEM else groups, True)

        plan = zip(WIDTHS_V1[groups], BLOCKS, strict=True)
        self.stage1, self.stage2, self.stage3 = stages(block, STEM, plan, shorter(image_size), first=2)
        self.head = nn.Linear(WIDTHS_V1[groups][-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.head(maps.mean((2, 3)))


class GroupedBlock(nn.Module):
    """1x1 in groups, shuffle, 3x3 depthwise, 1x1 in groups: [B, C, H, W] -> [B, out_channels, H/stride, W/stride].

    joined: the input, averaged where the block has stride 2, is put beside the result (C more channels) instead of added.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, groups: int, first_groups: int, joined: bool = False
    ) -> None:
        super().__init__()
        inner = out_channels // 4
        self.groups, self.joined = first_groups, joined
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=first_groups, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, groups=groups, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.AvgPool2d(3, stride, padding=1) if stride != 1 else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = shuffled(functional.relu(self.norm1(self.conv1(maps))), self.groups)
        # The paper has no ReLU after the depthwise convolution; RepDistiller, whose figures are the field's, has one.
        inner = functional.relu(self.norm2(self.conv2(inner)))
        inner, beside = self.norm3(self.conv3(inner)), self.shortcut(maps)
        return functional.relu(torch.cat([inner, beside], 1) if self.joined else inner + beside)


class ShuffleNetV2(nn.Module):
    """Three stages in which half of the channels pass by each block, a 1x1 convolution, mean over the map, linear.

    width: factor on the channels: 0.5, 1.0, 1.5 or 2.0. RepDistiller has 1.0.
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). Each stage halves the map, but only while at least 2x2 positions remain.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        if width not in WIDTHS_V2:
            raise ValueError(f"width must be one of {', '.join(map(str, WIDTHS_V2))}, got {width}")
        *widths, last = WIDTHS_V2[width]
        self.stem = _unit(in_channels, STEM, 1)

        def block(channels: int, width: int, stride: int) -> nn.Module:
            return SplitBlock(width) if channels == width else DownBlock(channels, width, stride)

        plan = zip(widths, BLOCKS, strict=True)
        self.stage1, self.stage2, self.stage3 = stages(block, STEM, plan, shorter(image_size), first=2)
        self.last = _unit(widths[-1], last, 1)
        self.head = nn.Linear(last, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.head(self.last(maps).mean((2, 3)))


class SplitBlock(nn.Module):
    """One half of the channels as it is, the other through 1x1, 3x3 depthwise and 1x1 convolutions; shuffled: [B, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(*_unit(half, half, 1), *_depthwise(half, 1), *_unit(half, half, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        passing, worked = maps.chunk(2, dim=1)
        return shuffled(torch.cat([passing, self.branch(worked)], 1), 2)


class DownBlock(nn.Module):
    """All channels through both branches: [B, C, H, W] -> [B, out_channels, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.branch1 = nn.Sequential(*_depthwise(in_channels, stride), *_unit(in_channels, half, 1))
        self.branch2 = nn.Sequential(*_unit(in_channels, half, 1), *_depthwise(half, stride), *_unit(half, half, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return shuffled(torch.cat([self.branch1(maps), self.branch2(maps)], 1), 2)


def shuffled(maps: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, groups * C, H, W] with the channels of all groups in turns: the first of each, the second of each, and so on."""
    batch, channels, height, width = maps.shape
    parts = maps.reshape(batch, groups, channels // groups, height, width)
    return parts.transpose(1, 2).reshape(batch, channels, height, width)


def _unit(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]
