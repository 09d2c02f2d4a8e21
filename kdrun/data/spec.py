"""What a network has to know about a data set. No torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass


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
