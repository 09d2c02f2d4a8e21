"""A multilayer perceptron on flattened images, or on rows of a table: the smallest student, and a ladder by its hidden widths."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

SEMANTICS = 1


class MLP(nn.Sequential):
    """Flatten, then linear layers with ReLU between them.

    hidden: widths of the hidden layers; an empty list is multinomial logistic regression.
    dropout: probability with which a hidden unit is set to 0 in training, after its ReLU.
    num_classes, in_channels, image_size (side, or height and width): of the data; features of a table are channels of 1 x 1.

    forward: float [B, in_channels, H, W] or [B, in_channels] -> logits [B, num_classes].
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 8,
    ) -> None:
        height_width = (image_size, image_size) if isinstance(image_size, int) else image_size
        widths = [in_channels * math.prod(height_width), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers, nn.Linear(widths[-1], num_classes))
