"""Rows of texts, or of plain values, in files: each is read when it is asked for, so that they may be more than memory holds. The layout is that
of Arrow's large strings, without a library: one after the other in UTF-8, and where each begins.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.files import Damaged

TOGETHER = 1_000
"""Rows that are read together where all are gone through."""
BLOCK = 1 << 24
"""Bytes of text that are written at a time."""
HELD = 1 << 22
"""Bytes of rows that a spool holds in memory."""
OBJECT, LIST, DICT = "old"
"""How rows in JSON say what is no text, number or tuple."""


class NotKept(TypeError):
    """A value has something in it that cannot be written to files."""


class Chosen(Sequence[Any]):
    """Those of `rows` that are at these places (int64 [n]), each taken when it is asked for."""

    def __init__(self, rows: Sequence[Any], places: np.ndarray):
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.rows[int(one)] for one in self.places[place]]
        return self.rows[int(self.places[place])]


class Rows(Sequence[Any]):
    """Rows of which each is made when it is asked for: `_row` of its place, 0 to len - 1."""

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        place = int(place)
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self._row(place % len(self))

    def _row(self, place: int) -> Any:
        raise NotImplementedError


class Followed(Rows):
    """The rows of several columns, one behind the other, each taken when it is asked for."""

    def __init__(self, *columns: Sequence[Any]):
        self.columns = columns
        self.ends = np.cumsum([len(column) for column in columns])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _row(self, place: int) -> Any:
        number = int(np.searchsorted(self.ends, place, "right"))
        return self.columns[number][place - int(self.ends[number] - len(self.columns[number]))]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.columns)


class StoredTexts(Rows):
    """The texts of a file, each read when it is asked for. starts: int64 [n + 1], where it is not in a file beside this one."""

    def __init__(self, path: str | os.PathLike[str], file: Any = None, starts: np.ndarray | None = None):
        """file: of this path where it is open already; the path of one that has no name is not used."""
        self.path, self.named = Path(path), file is None
        self.starts = np.load(self.path.with_suffix(".starts.npy"), mmap_mode="r") if starts is None else starts
        self._content: Any = b""
        if self.starts[-1]:
            with open(self.path, "rb") if file is None else nullcontext(file) as opened:
                self._content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._content) != self.starts[-1]:
            raise Damaged(f"{self.path}: {len(self._content)} bytes, not {self.starts[-1]}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path,)) if self.named else (tuple, (tuple(self),))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def _row(self, place: int) -> str:
        return self._content[int(self.starts[place]) : int(self.starts[place + 1])].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), TOGETHER):
            edges = self.starts[first : first + TOGETHER + 1].tolist()
            block = self._content[edges[0] : edges[-1]]
            for begin, end in pairwise(edges):
                yield block[begin - edges[0] : end - edges[0]].decode("utf-8", "surrogatepass")


class RowColumn(Rows):
    """Rows that are no texts (chats, samples), each made from its JSON when it is asked for. classes: names of those in rows."""

    def __init__(self, texts: StoredTexts, classes: Sequence[str]):
        self.texts, self.classes = texts, list(classes)
        self._kinds = [class_named(name) for name in classes]

    def __len__(self) -> int:
        return len(self.texts)

    def _row(self, place: int) -> Any:
        return self._made(json.loads(self.texts[place]))

    def __iter__(self) -> Iterator[Any]:
        return (self._made(json.loads(text)) for text in self.texts)

    def _made(self, tree: Any) -> Any:
        """A row from its JSON; see _row."""
        if isinstance(tree, list):
            return tuple([self._made(item) for item in tree])
        if not isinstance(tree, dict):
            return tree
        ((kind, content),) = tree.items()
        if kind == LIST:
            return [self._made(item) for item in content]
        if kind == DICT:
            return {self._made(key): self._made(item) for key, item in content}
        made = object.__new__(self._kinds[content[0]])
        for item, value in zip(fields(made), content[1:], strict=True):
            object.__setattr__(made, item.name, self._made(value))
        return made


def row_tree(value: Any, classes: list[str]) -> Any:
    """A row in JSON types, nothing of it in a file of its own. classes: names of those in rows, added to."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [row_tree(item, classes) for item in value]
    if isinstance(value, list):
        return {LIST: [row_tree(item, classes) for item in value]}
    if isinstance(value, Mapping):
        return {DICT: [[row_tree(key, classes), row_tree(item, classes)] for key, item in value.items()]}
    if is_dataclass(value):
        number = class_number(type(value), classes)
        return {OBJECT: [number, *(row_tree(getattr(value, item.name), classes) for item in fields(value))]}
    raise NotKept(f"a row with a {type(value).__name__}")


def class_number(kind: type, classes: list[str]) -> int:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if name not in classes:
        classes.append(name)
    return classes.index(name)


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """The files of stored texts; they are gone through once, and not held in memory."""
    starts = array("q", [0])
    with open(path, "wb", buffering=BLOCK) as file:
        for text in texts:
            _append(file, starts, text)
    np.save(path.with_suffix(".starts.npy"), np.frombuffer(starts, np.int64))


def _append(file: Any, starts: array[int], text: str) -> None:
    content = text.encode("utf-8", "surrogatepass")
    file.write(content)
    starts.append(starts[-1] + len(content))


class Spool:
    """Rows that come one after the other: texts, or plain values (see RowColumn). They are in memory while they are few, and from HELD
    bytes on in a file without a name in `folder`, so that they may be more than memory holds."""

    def __init__(self, folder: str | os.PathLike[str] | None):
        self.folder, self._rows, self._size = folder, [], 0
        self._file: Any = None
        self._starts, self._classes = array("q", [0]), None

    def append(self, row: Any) -> None:
        if self._file is None:
            self._rows.append(row)
            self._size += len(row) if isinstance(row, str) else len(json.dumps(row_tree(row, [])))
            if self.folder is not None and self._size >= HELD:
                self._spill()
        else:
            self._write(row)

    def rows(self) -> Sequence[Any]:
        """All of them, once the last has come."""
        if self._file is None:
            return tuple(self._rows)
        self._file.flush()
        texts = StoredTexts("", self._file, np.frombuffer(self._starts, np.int64))
        return texts if self._classes is None else RowColumn(texts, self._classes)

    def _spill(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=self.folder, buffering=BLOCK)  # noqa: SIM115 - it goes with the last that reads it
        self._classes = None if isinstance(self._rows[0], str) else []
        for row in self._rows:
            self._write(row)
        self._rows = []

    def _write(self, row: Any) -> None:
        text = row if self._classes is None else json.dumps(row_tree(row, self._classes), separators=(",", ":"))
        _append(self._file, self._starts, text)


def class_named(name: str) -> type:
    module, _, path = name.partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
