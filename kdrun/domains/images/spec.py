"""What a network has to know about a data set. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

SINGLE = ("images", "table")
"""Kinds of data with one output per sample; those of the others are per position of a sequence."""


@dataclass(frozen=True)
class DataSpec:
    """A classification data set as a network and a task see it.

    name     label of the data set
    classes  class names; a target is a position in it
    shape    (channels, height, width) of one input
    sizes    samples per split, after limits: {"train": n, "val": n, "test": n}
    mean     per channel, of pixels scaled to 0..1; what the inputs were normalised with
    std      per channel, likewise
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    kind: ClassVar[str] = "images"

    @property
    def outputs(self) -> int:
        """Numbers that a network says of one sample."""
        return len(self.classes)

    @property
    def about(self) -> str:
        """One line for people."""
        return f"{tuple(self.shape)}, {len(self.classes)} classes"

    def metadata(self) -> dict[str, Any]:
        """What a weights file keeps, so that its network can be built and used without the data."""
        return {
            "data": self.name,
            "classes": list(self.classes),
            "shape": list(self.shape),
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
        }

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> DataSpec:
        """The spec that a weights file was written with; sizes are those of no data set."""
        lists = (tuple(metadata[name]) for name in ("classes", "shape", "mean", "std"))
        classes, shape, mean, std = lists
        return cls(metadata["data"], classes, shape, {}, mean, std)
