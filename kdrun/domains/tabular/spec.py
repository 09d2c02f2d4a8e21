"""What a network and a task have to know about a table with a real target. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from kdrun.domains.spec import Blank, Spec
from kdrun.networks.names import classified
from kdrun.problems import UserError

TOLERANCE = 1e-4
"""Largest difference of two moments that are taken for the same."""


@dataclass(frozen=True)
class TableSpec(Spec):
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
    distribution: ClassVar[bool] = False
    says: ClassVar[str] = "target"
    unit: ClassVar[str] = "row"
    input_names: ClassVar[tuple[str, ...]] = ("features",)

    @property
    def shape(self) -> tuple[int]:
        return (len(self.features),)

    @property
    def about(self) -> str:
        return f"{len(self.features)} features, target {self.target}"

    def arguments(self) -> dict[str, Any]:
        """Each feature is a channel of 1 x 1."""
        return classified(self.outputs, len(self.features), 1)

    def blank(self) -> Blank:
        import torch

        return Blank(torch.zeros(2, *self.shape), (2, self.outputs), f"rows of {len(self.features)} features")

    def check(self, metadata: Mapping[str, Any], path: Path, as_trained: bool = False) -> None:
        """Features and target, and the moments of the target: outputs are in its deviations."""
        own = self.metadata()
        for key in ("features", "target", "target_mean", "target_std"):
            theirs, ours = metadata.get(key), own[key]
            alike = isinstance(ours, float) and theirs is not None and abs(theirs - ours) <= TOLERANCE
            if theirs != ours and not alike:
                raise UserError(f"{path} was trained on another table: {key} {theirs}, {self.name} has {ours}")

    def in_units_of(self, metadata: Mapping[str, Any]) -> TableSpec:
        moments = {key: metadata.get(key, getattr(self, key)) for key in ("target_mean", "target_std")}
        return replace(self, **moments)

    def output_turn(self, metadata: Mapping[str, Any]) -> tuple[float, float] | None:
        theirs = self.in_units_of(metadata)
        if (theirs.target_mean, theirs.target_std) == (self.target_mean, self.target_std):
            return None
        return theirs.target_std / self.target_std, (theirs.target_mean - self.target_mean) / self.target_std

    def described(self) -> dict[str, Any]:
        note = "inputs are standardised: (feature - mean) / std"
        raw = f"raw = output * {self.target_std!r} + {self.target_mean!r}"
        return {
            "normalisation": {"mean": list(self.mean), "std": list(self.std), "note": note},
            "outputs": f"{self.target}, standardised: {raw}",
        }

    def corrupted(self, inputs: Any, ids: Any, seed: int) -> Mapping[str, Any]:
        """Noise in units of the training deviation: 0.1, 0.2, 0.4, 0.7, 1."""
        from functools import partial

        from kdrun.domains.tabular.corruptions import LEVELS, noisy_rows

        return {"noise": [partial(noisy_rows, level, inputs, ids, seed) for level in range(len(LEVELS))]}
