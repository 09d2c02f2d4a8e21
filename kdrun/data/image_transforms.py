"""Random changes of single images that `data.augment.transforms` names: torchvision's (transforms.v2), under names and options of their own.

Each takes one uint8 image [C, H, W] and draws from torch's global generator, which Augment seeds for every image. They are applied in the
order of TARGETS, whatever order they are typed in, and after them those of the user's own by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kdrun.optional import needed

TARGETS = (
    "random_resized_crop",
    "color_jitter",
    "auto_augment",
    "rand_augment",
    "trivial_augment",
    "random_erasing",
    "cutout",
)
"""Functions that configs may call (see kdrun.slots)."""
HOME = __name__

Transform = Callable[[Tensor], Tensor]


def random_resized_crop(
    *, size: Sequence[int], scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
) -> Transform:
    """A piece of random area (a share in `scale`) and form (width over height in `ratio`), brought to the size of the images (arXiv 1409.4842).

    size: height and width; those of the data."""
    return _v2().RandomResizedCrop(tuple(size), tuple(scale), tuple(ratio), antialias=True)


def color_jitter(
    *, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0
) -> Transform:
    """Factors of 1 - x to 1 + x on brightness, contrast and saturation, and a turn of hue by -x to x of the circle, in random order."""
    return _v2().ColorJitter(brightness, contrast, saturation, hue)


def auto_augment(*, policy: str = "cifar10") -> Transform:
    """Two operations of a policy that was searched on cifar10, imagenet or svhn (AutoAugment, arXiv 1805.09501)."""
    v2 = _v2()
    return v2.AutoAugment(v2.AutoAugmentPolicy(policy))


def rand_augment(*, operations: int = 2, magnitude: int = 9) -> Transform:
    """So many operations of a list of fourteen, all of one strength of 0 to 30 (RandAugment, arXiv 1909.13719)."""
    return _v2().RandAugment(operations, magnitude)


def trivial_augment() -> Transform:
    """One operation of a random strength (TrivialAugment, wide; arXiv 2103.10158)."""
    return _v2().TrivialAugmentWide()


def random_erasing(
    *, p: float = 0.25, scale: Sequence[float] = (0.02, 0.33), ratio: Sequence[float] = (0.3, 3.3)
) -> Transform:
    """With probability p a rectangle of random area and form becomes black (arXiv 1708.04896)."""
    return _v2().RandomErasing(p, tuple(scale), tuple(ratio))


def cutout(*, length: int = 16) -> Transform:
    """A black square of this many pixels a side around a random pixel; what lies beyond the border is cut off (arXiv 1708.04552)."""

    def cut(image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
        top, left = row - length // 2, column - length // 2
        image = image.clone()
        image[:, max(0, top) : max(0, top + length), max(0, left) : max(0, left + length)] = 0
        return image

    return cut


def made(nodes: dict[str, dict[str, Any]], size: Sequence[int]) -> list[tuple[str, Transform]]:
    """(name, transform) of the nodes of `data.augment.transforms`, in the order in which they are applied. size: of the images."""
    from kdrun.targets import build

    order = {f"{HOME}.{name}": number for number, name in enumerate(TARGETS)}
    names = sorted(nodes, key=lambda name: (order.get(nodes[name]["_target_"], len(order)), name))
    return [(name, build(nodes[name], "transform", size=tuple(size))) for name in names]


def _v2() -> Any:
    return needed("torchvision.transforms.v2", "data.augment.transforms needs torchvision", "torchvision")
