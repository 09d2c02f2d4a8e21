"""What a source of translations returns: sentence pairs, and ids that outlive every split and limit. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from kdrun.data.source import SPLITS, check_columns, text_hash


@dataclass(repr=False)
class Pairs:
    """Sentence pairs as their source gives them.

    name       of the source
    languages  (source, target)
    source     text in the source language, one sentence (or line) each; no line ends within
    target     text in the target language
    split      int8 [N]: 0 train, 1 val, 2 test, -1 unused, 3 and up the sets of `extra`. A source without a split of
               its own says 0 throughout
    ids        int64 [N], unique: the position of the pair in the source
    extra      names of further test sets
    groups     what near-duplicates share: pairs of one group are never put into different splits. None: the target
               sentence without case, digits and punctuation
    dropped    pairs that the source left out, by reason
    lowercase  whether the text is in small letters, so that what is to be translated must be, too
    """

    name: str
    languages: tuple[str, str]
    source: Sequence[str]
    target: Sequence[str]
    split: np.ndarray
    ids: np.ndarray
    extra: tuple[str, ...] = ()
    groups: Sequence[str] | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    lowercase: bool = False

    def __post_init__(self) -> None:
        count = len(self.source)
        if len(self.target) != count or (self.groups is not None and len(self.groups) != count):
            raise ValueError(f"{self.name}: source, target and groups differ in length")
        check_columns(self, count)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def splits(self) -> dict[str, int]:
        """Name -> number in `split`, further test sets included."""
        return {**SPLITS, **{name: len(SPLITS) + position for position, name in enumerate(self.extra)}}

    kept_properties: ClassVar[tuple[str, ...]] = ("source_hash",)

    @cached_property
    def source_hash(self) -> str:
        """sha256 hex digest of the pairs with their splits and ids, whatever files they came in."""
        about = [self.languages, self.extra, self.lowercase, self.groups is not None]
        groups = [self.groups] if self.groups else []
        columns = [self.split.tolist(), self.ids.tolist(), self.source, self.target, *groups]
        return text_hash(json.dumps(row) for row in (about, *zip(*columns, strict=True)))

    @property
    def content_hash(self) -> str:
        return self.source_hash
