"""A plain convolutional network: a student that is no small copy of a residual teacher."""

from collections.abc import Sequence

import torch
from torch import nn

SEMANTICS = 1


class CNN(nn.Module):
    """Blocks of 3x3 convolution, batch norm and ReLU with 2x2 max pooling between them, mean over the map, linear.

    widths: channels of each block. A pooling is left out where fewer than 2x2 positions would remain.
    num_classes, in_channels, image_size (side, or height and width): of the data.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32),
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        side = image_size if isinstance(image_size, int) else min(image_size)
        blocks: list[nn.Module] = []
        channels = in_channels
        for number, width in enumerate(widths):
            if number > 0 and side >= 4:
                blocks.append(nn.MaxPool2d(2))
                side //= 2
            blocks += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean((2, 3)))
