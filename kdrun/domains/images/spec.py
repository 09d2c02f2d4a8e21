"""What a network has to know about a data set. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from kdrun.domains.spec import Blank, Spec
from kdrun.networks.names import classified
from kdrun.problems import UserError

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class DataSpec(Spec):
    """A classification data set as a network and a task see it.

    name     label of the data set
    classes  class names; a target is a position in it
    shape    (channels, height, width) of one input
    sizes    samples per split, after limits: {"train": n, "val": n, "test": n}
    mean     per channel, of pixels scaled to 0..1; what the inputs were normalised with
    std      per channel, likewise
    among    numbers of the classes that every sample is known to be of (`data.restrict.known`); None: it may be of any
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    among: tuple[int, ...] | None = None

    unsaved: ClassVar[tuple[str, ...]] = (*Spec.unsaved, "among")
    kind: ClassVar[str] = "images"
    unchanged: ClassVar[tuple[str, ...]] = ("shape",)
    chosen = MappingProxyType({"shape": ("image shape", "choose it: data.size=PIXELS, where the data have such a key")})

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes

    @property
    def binary(self) -> bool:
        return len(self.classes) == 2

    @property
    def unit(self) -> str:
        return "volume" if len(self.shape) == 4 else "image"

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("images",)

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def about(self) -> str:
        return f"{tuple(self.shape)}, {len(self.classes)} classes"

    def arguments(self) -> dict[str, Any]:
        """Numbers of classes and channels, and the size of a side (of all sides, where they differ)."""
        channels, *sides = self.shape
        size = sides[0] if len(sides) == 2 and len(set(sides)) == 1 else tuple(sides)
        return classified(self.outputs, channels, size)

    def blank(self) -> Blank:
        import torch

        shape = tuple(self.shape)
        return Blank(torch.zeros(2, *shape), (2, self.outputs), f"{self.input_names[0]} of shape {shape}")

    def check(self, metadata: Mapping[str, Any], path: Path, as_trained: bool = False) -> None:
        """The classes in their order, too."""
        theirs, ours = metadata.get("classes"), list(self.classes)
        if theirs is not None and list(theirs) != ours:
            if len(theirs) != len(ours):
                what = f"{len(theirs)} classes, {self.name} has {len(ours)}"
            else:
                index = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
                order = ", the same names in another order" if sorted(theirs) == sorted(ours) else ""
                what = f"class {index} = {theirs[index]!r}, {self.name} has {ours[index]!r} there{order}"
            raise UserError(f"{path} was trained on other classes: {what}")
        super().check(metadata, path, as_trained)

    def described(self) -> dict[str, Any]:
        return {
            "normalisation": {
                "mean": [float(value) for value in self.mean],
                "std": [float(value) for value in self.std],
                "note": "inputs are normalised: (pixel - mean) / std per channel, pixels scaled to 0..1 (uint8 divided by 255)",
            },
            "classes": list(self.classes),
            "outputs": "logits of the classes; of two classes perhaps one logit, of the second",
        }

    def usual_normalisations(self) -> dict[str, dict[str, list[float]]]:
        """Of pixels in 0..1; ImageNet's for one channel is its mean."""
        channels = len(self.mean)
        usual = {
            "-1..1": {"mean": [0.5] * channels, "std": [0.5] * channels},
            "0..1": {"mean": [0.0] * channels, "std": [1.0] * channels},
            "0..255": {"mean": [0.0] * channels, "std": [1 / 255] * channels},
        }
        if channels == 3:
            usual["ImageNet"] = IMAGENET
        elif channels == 1:
            usual["ImageNet"] = {name: [round(sum(values) / 3, 4)] for name, values in IMAGENET.items()}
        return usual

    def corrupted(self, inputs: Any, ids: Any, seed: int) -> Mapping[str, Any]:
        from kdrun.domains.images.corruptions import normalised_levels

        return normalised_levels(inputs, ids, self.mean, self.std, seed)

    def metadata(self) -> dict[str, Any]:
        """A file that says no kind is of images."""
        return {key: value for key, value in super().metadata().items() if (key, value) != ("kind", "images")}
