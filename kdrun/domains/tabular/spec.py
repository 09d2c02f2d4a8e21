"""What a network and a task have to know about a table with a real target. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class TableSpec:
    """Rows of features and one real target, both standardised with the moments of the training split.

    name         label of the data set
    features     names of the columns
    target       what is predicted
    sizes        samples per split, after limits: {"train": n, "val": n, "test": n}
    mean, std    per feature, raw
    target_mean, target_std   of the target, in its unit: raw = standardised * target_std + target_mean
    """

    name: str
    features: tuple[str, ...]
    target: str
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    target_mean: float
    target_std: float

    kind: ClassVar[str] = "table"
    outputs: ClassVar[int] = 1
    """Numbers that a network says of one sample."""

    @property
    def shape(self) -> tuple[int]:
        """Of one input."""
        return (len(self.features),)

    @property
    def about(self) -> str:
        """One line for people."""
        return f"{len(self.features)} features, target {self.target}"

    def metadata(self) -> dict[str, Any]:
        """What a weights file keeps, so that its network can be built and used without the data."""
        return {
            "kind": self.kind,
            "data": self.name,
            "features": list(self.features),
            "target": self.target,
            "mean": list(self.mean),
            "std": list(self.std),
            "target_mean": self.target_mean,
            "target_std": self.target_std,
        }

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> TableSpec:
        """The spec that a weights file was written with; sizes are those of no data set."""
        features, mean, std = (tuple(metadata[name]) for name in ("features", "mean", "std"))
        moments = metadata["target_mean"], metadata["target_std"]
        return cls(metadata["data"], features, metadata["target"], {}, mean, std, *moments)
