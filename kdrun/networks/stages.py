"""How convolutional networks for small images become stages of blocks."""

from collections.abc import Callable, Iterable

from torch import nn


def shorter(image_size: int | tuple[int, int]) -> int:
    """The shorter side of an image, from its side or its (height, width)."""
    return image_size if isinstance(image_size, int) else min(image_size)


def halved(side: int, stride: int = 2) -> tuple[int, int]:
    """(stride, side after it): 1 in place of 2 where fewer than 2x2 positions would remain."""
    stride = stride if side >= 4 else 1
    return stride, (side + stride - 1) // stride


def stages(
    block: Callable[[int, int, int], nn.Module],
    channels: int,
    plan: Iterable[tuple[int, int]],
    side: int,
    first: int = 1,
    expansion: int = 1,
) -> list[nn.Sequential]:
    """A stage for each (width, blocks) of the plan, the first of its blocks with the stride of the stage (see `halved`).

    block: (channels, width, stride) -> a block that gives expansion * width channels. channels: that the first stage is given.
    side: of its maps. first: its stride; that of the others is 2.
    """
    made: list[nn.Sequential] = []
    for width, blocks in plan:
        stride, side = halved(side, 2 if made else first)
        opening = block(channels, width, stride)
        channels = expansion * width
        made.append(nn.Sequential(opening, *(block(channels, width, 1) for _ in range(blocks - 1))))
    return made
