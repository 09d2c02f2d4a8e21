"""What a source of images returns: raw pixels, labels, and ids that outlive every split and limit."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

TRAIN, VAL, TEST, UNUSED = 0, 1, 2, -1
SPLITS = {"train": TRAIN, "val": VAL, "test": TEST}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), VAL),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
"""What the splits are called by people, in small letters."""
_BEHIND = frozenset(
    ("set", "data", "dataset", "image", "images", "img", "imgs", "pictures", "photos", "samples", "split")
)
"""Words that may stand behind the name of a split: `Training Set`, `test_images`."""


def part_of(name: str) -> int | None:
    """The split that a folder, a file or a word of a table is about by its name, in any case: TRAIN, VAL or TEST.

    None where it is the name of no split."""
    words = re.sub(r"[\W_\d]+", " ", name.casefold()).split()  # also val2017, test (1)
    while words and words[-1] in _BEHIND:
        words.pop()
    return SPLIT_NAMES.get(words[0].removesuffix("set")) if len(words) == 1 else None


@dataclass
class Images:
    """A labelled set of images as its source gives it.

    x            uint8 [N, C, H, W], or float32 with pixels in 0..1; an array or a memory map
    y            int64 [N], positions in `classes`
    split        int8 [N]: 0 train, 1 val, 2 test, -1 unused. A source without a split of its own says 0 throughout
    ids          int64 [N], unique: the position of the sample in the raw source
    classes      class names
    name         of the source
    source_hash  sha256 hex digest of the raw content, whatever file or archive it came in
    unreadable   names of files that could not be decoded and are not among the samples
    names        name of each sample's file, where samples are files
    notes        what else a person should know of how the source was read: one sentence each, without a full stop
    decoded      sha256 hex digest of x, where it depends on more than the raw content: on versions of decoders
    determined   whether y, split, ids and classes follow from the raw content and the options of the source, so that
                 source_hash stands for all
    """

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    name: str
    source_hash: str
    unreadable: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    decoded: str = ""
    determined: bool = False

    def __post_init__(self) -> None:
        count = len(self.x)
        if self.x.ndim != 4 or self.x.dtype not in (np.uint8, np.float32):
            raise ValueError(f"{self.name}: x is {self.x.dtype}{self.x.shape}, not uint8 or float32 [N, C, H, W]")
        check_columns(self, count, y=np.int64)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def content_hash(self) -> str:
        """sha256 hex digest of all that a result may depend on: the raw content and how it is labelled, ordered and split."""
        return self.source_hash if self.determined else parts_hash(self.source_hash, *self._parts())

    def _parts(self) -> tuple[Any, ...]:
        return (self.decoded, self.x.shape, str(self.x.dtype), self.y, self.split, self.ids, self.classes)

    @property
    def strata(self) -> np.ndarray:
        """int64 [N]: what splits are drawn in proportion from."""
        return self.y

    def describe(self, position: int) -> str:
        """How to name one sample to a person: its file, or its id."""
        if self.names is not None:
            return self.names[position]
        return f"id {int(self.ids[position])}"


def check_columns(source: Any, count: int, y: Any) -> None:
    """Raises ValueError where y, split and ids of a source are not [count] of their types, or ids not unique."""
    for name, dtype in (("y", y), ("split", np.int8), ("ids", np.int64)):
        array = getattr(source, name)
        if array.shape != (count,) or array.dtype != dtype:
            raise ValueError(f"{source.name}: {name} is {array.dtype}{array.shape}, not {np.dtype(dtype)}({count},)")
    if len(np.unique(source.ids)) != count:
        raise ValueError(f"{source.name}: ids are not unique")


def parts_hash(*parts: Any) -> str:
    """sha256 hex digest of arrays and of values in JSON types, each told apart from the next."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head, content = f"{part.dtype.str} {part.shape}", np.ascontiguousarray(part).tobytes()
        else:
            head, content = "json", json.dumps(part).encode()
        whole.update(f"{head} {len(content)}\n".encode() + content)
    return whole.hexdigest()
