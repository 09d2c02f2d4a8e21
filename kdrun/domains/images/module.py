"""A loaded set of images: split, normalised with the moments of the training split, augmented."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdrun import kinds
from kdrun.data import kept
from kdrun.data.array_module import ArrayModule, key_of
from kdrun.data.source import TRAIN, VAL
from kdrun.data.splits import assign, sizes_of, told_moments
from kdrun.data.transfer import chosen, of_classes, with_unlabelled
from kdrun.domains.images.augment import Augment
from kdrun.domains.images.source import Images
from kdrun.domains.images.spec import DataSpec
from kdrun.problems import UserError
from kdrun.protocol import PUBLISHED

DOMAIN = kinds.find("classification")


class ImageDataModule(ArrayModule):
    """Images with a split, a normalisation and an augmentation.

    augment  the config's `augment` (see augment.Augment); only training is augmented
    """

    source: Images
    spec: DataSpec

    def __init__(
        self,
        images: Images,
        split: np.ndarray,
        spec: DataSpec,
        augment: dict[str, Any] | None = None,
        domain: Any = DOMAIN,
        labelled: np.ndarray | None = None,
    ):
        super().__init__(domain, images, split, spec, Augment(**(augment or {}), size=spec.shape[-2:]), labelled)
        for key in ("transforms", "strong"):
            if (augment or {}).get(key) and images.x.dtype != np.uint8:
                raise UserError(f"data.augment.{key}: for 8-bit pixels, and {spec.name} has {images.x.dtype}")
        if self.mixes and labelled is not None:
            raise UserError("data.augment.mixup and cutmix are for training samples that all have a label")

    @property
    def images(self) -> Images:
        return self.source


def image_module(
    images: Images, config: dict[str, Any], domain: Any = DOMAIN, cache: str | None = None
) -> ImageDataModule:
    """The data set of images. config: the keys that every data config has. cache: where what was found out about decoded pixels is kept."""
    if config["view"] is not None:
        from kdrun.domains.images.views import view

        images = view(images, config["view"])
    split, watched = _published(images, assign(images, config), config)
    training = chosen(images, split, config)
    # Of the data set itself, as its teachers have it.
    key = None if config["normalize"] else key_of(images, training.split)
    mean, std = kept.once(cache, "moments", key, lambda: _moments(images, training.split, config["normalize"]))
    training = of_classes(with_unlabelled(training, config["unlabelled"]), config.get("restrict"))
    images, split = training.source, training.split
    images.check_split(split)
    subset = config.get("restrict") or {}
    spec = DataSpec(
        name=config["name"] or images.name,
        classes=images.classes,
        shape=tuple(images.x.shape[1:]),
        sizes={**sizes_of(images, split), **({} if watched is None else {"val": len(watched)})},
        mean=tuple(mean),
        std=tuple(std),
        among=tuple(subset["classes"]) if subset.get("known") and subset["classes"] else None,
    )
    module = ImageDataModule(images, split, spec, config["augment"], domain, training.labelled)
    module.cache, module.watched = cache, watched
    return module


def _published(images: Images, split: np.ndarray, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """(the split, the samples that are both trained on and evaluated after each epoch, int64: with data.protocol=published those that
    would be held out for validation; else None)."""
    if config.get("protocol") != PUBLISHED:
        return split, None
    said = f"data.protocol={PUBLISHED}"
    if (images.split == VAL).any():
        raise UserError(f"{said}: {images.name} has validation samples of its own, which are never trained on")
    restrict = config.get("restrict") or {}
    others = {name: config[name] for name in ("labelled", "unlabelled", "long_tail", "label_noise")}
    others |= {f"restrict.{name}": restrict.get(name) for name in ("classes", "replay")}
    if changed := [name for name, value in others.items() if value]:
        raise UserError(f"{said} trains on all samples as they are: not with data.{changed[0]}")
    watched = np.flatnonzero(split == VAL)
    split = split.copy()
    split[watched] = TRAIN
    return split, watched


def _moments(images: Images, split: np.ndarray, given: dict[str, Any] | None) -> tuple[tuple[float, ...], ...]:
    """Mean and deviation per channel of the training split, pixels scaled to 0..1; `given` wins.

    uint8 pixels are counted, so the result is exact and the same on every machine.
    """
    channels = images.x.shape[1]
    if given is not None:
        return told_moments(images, given, channels)
    rows = np.flatnonzero(split == TRAIN)
    if images.x.dtype == np.uint8:
        counts = np.zeros((channels, 256), np.int64)
        for start in range(0, len(rows), 1024):
            block = images.x[rows[start : start + 1024]]
            for channel in range(channels):
                counts[channel] += np.bincount(block[:, channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        total = np.maximum(counts.sum(axis=1), 1)
        mean = (counts @ levels) / total
        variance = (counts @ levels**2) / total - mean**2
    else:
        block = np.asarray(images.x[rows], np.float64)
        others = (0, *range(2, block.ndim))
        mean, variance = block.mean(axis=others), block.var(axis=others)
    deviation = np.sqrt(np.maximum(variance, 0))
    deviation[deviation < 1e-4] = 1.0  # a constant channel is only shifted
    return tuple(mean.tolist()), tuple(deviation.tolist())
