"""Images and their classes, as the rest of kdrun asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kdrun.domains.base import Domain


class Classification(Domain):
    """Images in, one of C classes out."""

    name, kind = "classification", "images"
    metrics = MappingProxyType(
        {"accuracy": "max", "top5": "max", "worst_class": "max", "loss": "min", "calibration": "min"}
    )
    augmented = views = True

    def source_type(self) -> type:
        from kdrun.domains.images.source import Images

        return Images

    def module(self, source: Any, config: dict[str, Any], cache: str) -> Any:
        from kdrun.domains.images.module import image_module

        return image_module(source, config, self)

    def task(self, module: Any, decoding: dict[str, Any] | None = None) -> Any:
        from kdrun.domains.images.task import Classification as Task

        return Task(module.spec)

    def spec(self, metadata: Mapping[str, Any]) -> Any:
        from kdrun.domains.images.spec import DataSpec

        return DataSpec.of(metadata)


DOMAIN = Classification()
