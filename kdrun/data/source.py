"""What sources of several kinds of data say alike: splits and their names, hashes, columns of arrays. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from kdrun.data.stored import Chosen, Followed

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


class ArraySource:
    """What sources share that hold one array of inputs `x` [N, ...] and one target for each sample.

    A dataclass below it has the fields
        x, y         inputs and targets, [N, ...] and [N]: int64 classes, or float32 numbers; [N, C] where any of C classes may apply
        split        int8 [N]: 0 train, 1 val, 2 test, -1 unused. A source without a split of its own says 0 throughout
        ids          int64 [N], unique: the position of the sample in the raw source
        name         of the source
        source_hash  sha256 hex digest of the raw content, whatever file or archive it came in
        classes      names of the classes; () where targets are numbers
    and may have those below.

    unreadable  names of files that could not be decoded and are not among the samples
    notes       what else a person should know of how the source was read: one sentence each, without a full stop
    determined  whether all else follows from the raw content and the options of the source, so that source_hash stands for all
    broken      what is said of samples with a number that is not finite
    further     positions (int64) of further test sets by name; these samples are in no split
    columns     names of fields that have one entry for each sample, beside x, y, split and ids
    """

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    name: str
    source_hash: str
    classes: tuple[str, ...]
    unreadable: ClassVar[Any] = ()
    notes: ClassVar[Any] = ()
    determined: ClassVar[Any] = False
    broken: ClassVar[str] = "samples hold NaN or infinite numbers"
    further: ClassVar[Any] = {}
    columns: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def content_hash(self) -> str:
        """sha256 hex digest of all that a result may depend on: the raw content and how it is labelled, ordered and split."""
        return self.source_hash if self.determined else parts_hash(self.source_hash, *self.parts())

    def parts(self) -> tuple[Any, ...]:
        """Arrays and values in JSON types that a result may depend on beside the raw content."""
        return (self.x, self.y, self.split, self.ids, self.classes)

    @property
    def strata(self) -> np.ndarray:
        """int64 [N]: what splits are drawn in proportion from."""
        return self.y

    def followed_by(self, other: ArraySource, rows: np.ndarray, offset: int) -> ArraySource:
        """This source with the samples of `other` at `rows` (int64 [n]) behind its own; their ids are raised by `offset`."""
        arrays = {
            name: np.concatenate([getattr(self, name), getattr(other, name)[rows]]) for name in ("x", "y", "split")
        }
        columns = {}
        for name in self.columns:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None or theirs is not None:
                chosen = Chosen(theirs, rows) if theirs else ("",) * len(rows)
                columns[name] = Followed(mine or ("",) * len(self), chosen)
        return replace(self, ids=np.concatenate([self.ids, other.ids[rows] + offset]), **arrays, **columns)

    def label(self, position: int) -> Any:
        """The target of a sample as a plain value; of several numbers a tuple."""
        value = self.y[position].tolist()
        return tuple(value) if isinstance(value, list) else value

    def occurring(self, rows: np.ndarray) -> set[int]:
        """Positions of the classes that samples at these positions (int64 [n]) have."""
        labels = self.y[rows]
        return set((np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(0))).tolist())

    def check_split(self, split: np.ndarray) -> None:
        """Raises UserError where a split (int8 [N]) parts samples that belong together."""

    def describe(self, position: int) -> str:
        """How to name one sample to a person."""
        return f"id {int(self.ids[position])}"


def check_columns(source: Any, count: int, **others: Any) -> None:
    """Raises ValueError where split, ids and other columns of a source are not [count] of their types, or ids not unique."""
    for name, dtype in {**others, "split": np.int8, "ids": np.int64}.items():
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


def text_hash(lines: Iterable[str]) -> str:
    """sha256 hex digest of lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()
