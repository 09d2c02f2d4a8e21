"""What a source of texts returns: texts (or pairs of texts), their classes and ids. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kdrun.data.source import ArraySource, check_columns


@dataclass
class Texts(ArraySource):
    """Labelled texts as their source gives them; see ArraySource for what is not here.

    x        uint8 [N, 16]: `digests` of the texts, by which equal ones are known
    y        int64 [N], positions in `classes`
    texts    one for each sample
    seconds  the second text of each sample, where samples are pairs; None: they are not
    asked    names of the columns that the texts came from
    places   where each sample is in files of the user's ("line 7"), for messages; None: not known
    """

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    name: str
    source_hash: str
    texts: Sequence[str] = ()
    seconds: Sequence[str] | None = None
    asked: tuple[str, ...] = ()
    places: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    determined: bool = False

    columns: ClassVar[tuple[str, ...]] = ("texts", "seconds", "places")

    def __post_init__(self) -> None:
        count = len(self.x)
        if len(self.texts) != count or (self.seconds is not None and len(self.seconds) != count):
            raise ValueError(f"{self.name}: texts and digests differ in number")
        self.check_targets(count)

    def check_targets(self, count: int) -> None:
        """Raises ValueError where y, split or ids are no columns of so many."""
        check_columns(self, count, y=np.int64)

    @property
    def pairs(self) -> bool:
        return self.seconds is not None

    def describe(self, position: int) -> str:
        text = self.texts[position]
        place = self.places[position] if self.places else ""
        return f"{place or super().describe(position)} ({text[:40]!r}{' ...' if len(text) > 40 else ''})"


def digests(texts: Iterable[str], seconds: Sequence[str] | None = None) -> np.ndarray:
    """uint8 [N, 16]: hashes of texts, equal for texts that differ in case and in blanks alone."""
    pairs = zip(texts, seconds, strict=True) if seconds else ((text, "") for text in texts)
    written = ("\0".join(" ".join(text.casefold().split()) for text in pair) for pair in pairs)
    content = bytearray()
    for text in written:  # joined, they would all be held first
        content += hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.frombuffer(content, np.uint8).reshape(-1, 16).copy()
