"""VGG networks for small images, after Simonyan and Zisserman 2015 (arXiv 1409.1556), with one linear layer."""

import torch
from torch import nn

SEMANTICS = 1

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth -> 3x3 convolutions of each stage. 11 to 19 are the paper's, whose depths count three linear layers; 8 is RepDistiller's."""
LEAST = 4
"""Positions of a side that stage 5 keeps."""


class VGG(nn.Module):
    """Five stages of 3x3 convolution, batch norm and ReLU, 2x2 max pooling between them, mean over the map, linear.

    depth: 8, 11, 13, 16 or 19.
    num_classes, in_channels: of the data.
    image_size: side of the image, or (height, width). Pooling is left out where fewer than 2x2 positions would remain, and
        between the last two stages where fewer than 4x4 would: 32x32 is pooled three times, 64x64 four times, as in
        RepDistiller (arXiv 1910.10699).

    forward: float [B, in_channels, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        depth: int = 8,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"depth must be one of {', '.join(map(str, CONVOLUTIONS))}, got {depth}")
        side = image_size if isinstance(image_size, int) else min(image_size)
        channels, stages = in_channels, []
        for number, (width, convolutions) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True)):
            layers: list[nn.Module] = []
            if number > 0 and side // 2 >= (LEAST if number == len(WIDTHS) - 1 else 2):
                layers.append(nn.MaxPool2d(2))
                side //= 2
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = stages
        self.head = nn.Linear(channels, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stage5(self.stage4(self.stage3(self.stage2(self.stage1(images)))))
        return self.head(maps.mean((2, 3)))
