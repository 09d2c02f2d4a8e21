"""Images and their classes, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kdrun.data.class_subset import ClassSubset
from kdrun.domains.base import Domain, Foreseen, passes_over


class ClassificationDomain(Domain):
    """Images in, one of C classes out."""

    name, kind = "classification", "images"
    metrics = MappingProxyType(
        {"accuracy": "max", "top5": "max", "worst_class": "max", "loss": "min", "calibration": "min"}
    )
    settings = MappingProxyType({"restrict": ClassSubset})
    divided = ("restrict", "classes")
    augmented = views = True
    transfers = published = True
    commands = ("predict",)
    supplies = ("num_classes", "num_labels", "in_channels", "in_chans", "image_size", "img_size")
    source = "kdrun.domains.images.source:Images"
    learned = "kdrun.domains.images.task:Classification"
    described = "kdrun.domains.images.spec:DataSpec"
    reads = "kdrun.domains.images.reader:ImageReader"
    unlabelled = "kdrun.domains.images.image_folder.unlabelled_images"

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        from kdrun.domains.images.module import image_module

        return image_module(source, config, self, cache)

    def stand_in(self, requires: Mapping[str, Any], count: int) -> Any:
        import numpy as np

        from kdrun.domains.images.module import ImageDataModule
        from kdrun.domains.images.source import Images

        spec, random = _made_up(requires, count), np.random.default_rng(0)
        pixels = random.integers(256, size=(count, *spec.shape), dtype=np.uint8)
        targets = random.integers(len(spec.classes), size=count)
        images = Images(pixels, targets, np.zeros(count, np.int8), np.arange(count), spec.classes, "stand-in", "")
        return ImageDataModule(images, images.split, spec, domain=self)

    def foreseen(self, planned: Mapping[str, Any], data: Mapping[str, Any]) -> Foreseen:
        spec = _made_up(planned, planned["train"])
        return Foreseen(spec, lambda count: passes_over((count, *spec.shape)))


def _made_up(planned: Mapping[str, Any], count: int) -> Any:
    """The spec of `count` training images of this "shape" and number of "classes"."""
    from kdrun.domains.images.spec import DataSpec

    shape, sizes = tuple(planned["shape"]), {"train": count, "val": 0, "test": 0}
    classes = tuple(f"class {number}" for number in range(planned["classes"]))
    return DataSpec("stand-in", classes, shape, sizes, (0.5,) * shape[0], (0.25,) * shape[0])


DOMAIN = ClassificationDomain()
