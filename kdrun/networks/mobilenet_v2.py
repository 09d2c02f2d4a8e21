"""MobileNetV2 for small images, after Sandler et al. 2018 (arXiv 1801.04381), table 2."""

import torch
from torch import nn

from kdrun.networks.initial import he_normal
from kdrun.networks.stages import halved, shorter

SEMANTICS = 1

STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Of each stage: (expansion, channels at full width, blocks, stride of the first block). A stage is what has maps of one size."""
LAST = 1280


class MobileNetV2(nn.Module):
    """Stages of inverted residual blocks after a 3x3 convolution of stride 2, a 1x1 convolution, mean over the map, linear.

    The strides are those of RepDistiller for CIFAR (arXiv 1910.10699): the second group of blocks has stride 1 instead of 2, so
    that 32x32 ends at 2x2.

    width: factor on the channels; the last convolution has 1280 at any width up to 1. RepDistiller has 0.5.
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). Maps are halved only while at least 2x2 positions remain.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        width: float = 0.5,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        if width <= 0 or int(16 * width) < 1:
            raise ValueError(f"width must leave at least one channel of 16, got {width}")
        channels, stages = int(32 * width), []
        stride, side = halved(shorter(image_size))
        self.stem = nn.Sequential(*_convolution(in_channels, channels, 3, stride), nn.ReLU())
        for groups in STAGES:
            blocks = []
            for expansion, full, number, first in groups:
                stride, side = halved(side, first)
                for block in range(number):
                    blocks.append(InvertedResidual(channels, int(full * width), stride if block == 0 else 1, expansion))
                    channels = int(full * width)
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        last = LAST if width <= 1 else int(LAST * width)
        self.last = nn.Sequential(*_convolution(channels, last, 1), nn.ReLU())
        self.head = nn.Linear(last, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        he_normal(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(images)))))
        return self.head(self.last(maps).mean((2, 3)))


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, 3x3 depthwise, 1x1 back without an activation: [B, C, H, W] -> [B,
    out_channels, H/stride, W/stride]. The input is added where it has this shape.

    With an expansion of 1 the first convolution stays, as in RepDistiller; the paper's code leaves it out there.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.body = nn.Sequential(
            *_convolution(in_channels, inner, 1),
            nn.ReLU(),
            *_convolution(inner, inner, 3, stride, groups=inner),
            nn.ReLU(),
            *_convolution(inner, out_channels, 1),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.body(maps) if self.residual else self.body(maps)


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels)]
