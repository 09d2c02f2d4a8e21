"""What a source of scans returns: images that also say whose they are, of which views they consist, and what else is tested."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from kdrun.data.source import SPLITS, UNUSED
from kdrun.domains.images.source import Images
from kdrun.problems import UserError

NAMES = {number: name for name, number in SPLITS.items()}


@dataclass
class Scans(Images):
    """Images whose channels are views of the same voxels.

    x         as in Images, or [N, V, D, H, W]: channel v is the sample in views[v]
    views     names of the channels
    groups    code of what each sample may not be parted from: its patient, by a word that says nothing of who that is
    grouped   what the groups are, for people
    further   positions (int64) of further test sets by name; these samples are in no split (split says -1)
    """

    views: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    grouped: str = "patients"
    further: dict[str, np.ndarray] = field(default_factory=dict)

    columns: ClassVar[tuple[str, ...]] = ("names", "groups")

    def __post_init__(self) -> None:
        if self.x.ndim == 5:  # all else that is checked does not depend on depth
            flat = self.x.reshape(len(self.x), -1, *self.x.shape[3:])
            Images(flat, self.y, self.split, self.ids, self.classes, self.name, self.source_hash)
        else:
            super().__post_init__()
        if len(self.views) != self.x.shape[1]:
            raise ValueError(f"{self.name}: {self.x.shape[1]} channels but {len(self.views)} views")
        if len(self.groups) != len(self.x):
            raise ValueError(f"{self.name}: {len(self.x)} samples but {len(self.groups)} groups")
        for name, rows in self.further.items():
            if rows.dtype != np.int64 or (self.split[rows] != UNUSED).any():
                raise ValueError(f"{self.name}: samples of the test set {name} are in another split too")

    def parts(self) -> tuple[Any, ...]:
        codes: dict[str, int] = {}  # what a group is called depends on a key of this machine
        groups = np.array([codes.setdefault(group, len(codes)) for group in self.groups], np.int64)
        further = [part for name, rows in sorted(self.further.items()) for part in (name, rows)]
        return (*super().parts(), groups, self.views, *further)

    def check_split(self, split: np.ndarray) -> None:
        parts: dict[str, set[str]] = {}
        for group, part in zip(self.groups, split.tolist(), strict=True):
            if part != UNUSED:
                parts.setdefault(group, set()).add(NAMES[part])
        shared = sorted(group for group, found in parts.items() if len(found) > 1)
        if shared:
            shown = "; ".join(f"{group} in {' and '.join(sorted(parts[group]))}" for group in shared[:3])
            raise UserError(
                f"{self.name}: {len(shared)} of its {self.grouped} in two splits: {shown}{' ...' if len(shared) > 3 else ''}",
                f"all samples of one of the {self.grouped} belong to one split",
            )
