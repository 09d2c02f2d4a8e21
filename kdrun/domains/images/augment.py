"""Random changes of images, a function of (key, sample id): no batch, rank or worker changes them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from kdrun.data import randomness
from kdrun.data.image_transforms import made
from kdrun.domains.images.mixes import Mixes
from kdrun.problems import UserError

_24_BITS = np.uint64(0xFFFFFF)
STRONG = "strong"
"""The second view of an image that `data.augment.strong` makes."""


def _mirrored(drawn: np.ndarray) -> np.ndarray:
    return (drawn >> np.uint64(63)).astype(bool)


class Augment:
    """Zero-padded random crop and horizontal flip of whole batches, then transforms of single images, then what is mixed with other images.

    crop   pixels of black border on each side before an image of the old size is cut out; 0: no crop
    flip   mirror half of the images left to right
    seed   replays: with a seed, the randomness depends on (seed, view) and not on the run, so that outputs of a
           teacher can be stored per view. None: every epoch of every run draws anew
    views  number of replayed views; epoch e shows view e % views
    transforms  name -> node of a transform (see data.image_transforms), in any order
    mixup, cutmix  see mixes; Samples do it, once inputs are normalised
    size   height and width of the images
    strong  nodes like `transforms`: of a second view of each image, with a crop and a flip of its own and these in place of `transforms`
    """

    home = "transforms"
    """The key of data.augment that holds its transforms."""

    def __init__(
        self,
        crop: int = 0,
        flip: bool = False,
        seed: int | None = None,
        views: int = 1,
        transforms: Mapping[str, dict[str, Any]] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        size: Sequence[int] = (0, 0),
        strong: Mapping[str, dict[str, Any]] | None = None,
    ):
        if crop < 0 or views < 1:
            raise ValueError(f"augment: crop={crop} must be >= 0 and views={views} >= 1")
        self.crop, self.flip, self.seed = crop, flip, seed
        self.mixes, self._transforms = Mixes(mixup, cutmix), made(dict(transforms or {}), size)
        # Name -> what makes a further view of the same images, which batches have under that name.
        self.further = {STRONG: Augment(crop, flip, transforms=strong, size=size)} if strong else {}
        for name, augment in self.further.items():
            augment.home = name
        if self.further and self.mixes:
            raise UserError(
                "data.augment.strong: a second view is not mixed with other images (data.augment.mixup, cutmix)"
            )
        self.random = crop > 0 or flip or bool(self._transforms) or bool(self.mixes) or bool(self.further)
        self.replayed = self.random and seed is not None
        self.views = views if self.replayed else 1

    def __str__(self) -> str:
        """`crop 4, flip`"""
        words = [f"crop {self.crop}" if self.crop else "", "flip" if self.flip else "", *dict(self._transforms)]
        mixes = [f"{name} {alpha:g}" for name, alpha in vars(self.mixes).items() if alpha]
        further = [f"{name}: {augment}" for name, augment in self.further.items()]
        return ", ".join([*filter(None, words), *mixes, *further])

    def view(self, epoch: int) -> int:
        """The view that an epoch shows: 0 without randomness, the epoch itself where nothing is replayed."""
        if not self.random:
            return 0
        return epoch % self.views if self.replayed else epoch

    def key(self, seed: int | None, view: int) -> int | None:
        """The key of a view; `seed` is the run's and counts only where nothing is replayed. None: not random."""
        if not self.random:
            return None
        if self.replayed:
            return randomness.key("augment", "replayed", self.seed, view)
        if seed is None:
            raise ValueError("random augmentation without data.augment.seed needs the seed of the run")
        return randomness.key("augment", "run", seed, view)

    def __call__(self, images: Tensor, ids: Tensor, key: int) -> Tensor:
        """A new batch of the same shape and type. images: [B, C, H, W], raw pixels; ids: int64 [B].

        numpy does it in a quarter of the time of torch's indexing, which is made for larger pieces.
        """
        drawn = randomness.bits(key, ids.numpy())
        pixels = images.numpy()
        pixels = self._cropped(pixels, drawn) if self.crop else pixels.copy()
        if self.flip:
            mirrored = _mirrored(drawn)
            pixels[mirrored] = torch.from_numpy(pixels[mirrored]).flip(-1).numpy()
        changed = torch.from_numpy(pixels)
        return self._transformed(changed, randomness.bits(randomness.key("transforms", key), ids.numpy()))

    def moves(self, ids: Tensor, key: int) -> tuple[int, Tensor, Tensor, Tensor] | None:
        """What `data.host.cut` does to images for the same pixels as here, on any device: (border, down int64 [B], right int64 [B],
        mirrored bool [B]). None where more is done to an image than a crop and a flip."""
        if self._transforms:
            return None
        drawn = randomness.bits(key, ids.numpy())
        down, right = (torch.from_numpy(places.astype(np.int64)) for places in self._places(drawn))
        return self.crop, down, right, torch.from_numpy(_mirrored(drawn) & self.flip)

    def _transformed(self, images: Tensor, keys: np.ndarray) -> Tensor:
        """Each image under random numbers of its own (keys: uint64 [B]); generators are then as they were."""
        if not self._transforms:
            return images
        before = torch.get_rng_state(), np.random.get_state(), random.getstate()
        try:
            return torch.stack([self._one(image, int(key)) for image, key in zip(images, keys, strict=True)])
        finally:
            torch.set_rng_state(before[0])
            np.random.set_state(before[1])
            random.setstate(before[2])

    def _one(self, image: Tensor, key: int) -> Tensor:
        torch.default_generator.manual_seed(key)
        np.random.seed(key & 0xFFFFFFFF)
        random.seed(key)
        for name, transform in self._transforms:
            changed = transform(image)
            if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (image.shape, image.dtype):
                found = (
                    f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
                )
                raise UserError(
                    f"data.augment.{self.home}.{name} made {found} of an image {image.dtype} {tuple(image.shape)}",
                    "a transform takes and gives one image [C, H, W] of raw pixels, of the size and type of the data",
                )
            image = changed
        return image

    def _places(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far down and to the right of the corner of its border each image is cut out."""
        places = np.uint64(2 * self.crop + 1)
        down = ((drawn & _24_BITS) * places) >> np.uint64(24)
        return down, (((drawn >> np.uint64(24)) & _24_BITS) * places) >> np.uint64(24)

    def _cropped(self, pixels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        border, (height, width) = self.crop, pixels.shape[2:]
        down, right = self._places(drawn)
        padded = np.zeros((*pixels.shape[:2], height + 2 * border, width + 2 * border), pixels.dtype)
        padded[:, :, border : border + height, border : border + width] = pixels
        windows = sliding_window_view(padded, (height, width), axis=(2, 3))  # [B, C, 2n+1, 2n+1, H, W], nothing copied
        return windows[np.arange(len(pixels)), :, down.astype(np.int64), right.astype(np.int64)]
