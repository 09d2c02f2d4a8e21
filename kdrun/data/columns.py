"""Values of data sets on disk: arrays and long columns of texts are mapped and read when they are asked for, all else is JSON.

    about.json   the value, in JSON; what is in a file of its own stands there by its name
    N.npy        an array
    N.text       the texts of a column one after the other, in UTF-8; N.starts.npy, int64 [n + 1]: the byte that each begins at
                 (the layout of Arrow's large strings)

What is mapped already, from a folder of `decoded`, is not written again: its path and its stamp are. A column whose rows are no texts has
their JSON as texts. Nothing of it is executed when it is read: classes are those below the packages that `decode` is told.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from kdrun.data.decoded import stamp
from kdrun.data.stored import (
    DICT,
    LIST,
    OBJECT,
    NotKept,
    RowColumn,
    StoredTexts,
    class_named,
    class_number,
    row_tree,
    write_texts,
)
from kdrun.files import Damaged, new_array

ABOUT = "about.json"
LONG = 1_000
"""Entries of a sequence above which it is a column of its own."""
INLINE = 4_096
"""Bytes of an array up to which it is read into memory."""
BLOCK = 1 << 24
"""Bytes of an array that are written at a time."""
_PATH, _ARRAY, _TENSOR, _TEXTS, _ROWS, _SET, _BYTES = "partnsb"


class Parts:
    """A class whose objects are made again from attributes (`KEPT`), as they were."""

    KEPT: tuple[str, ...] = ()

    def kept_parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.KEPT}

    @classmethod
    def of_kept_parts(cls, parts: dict[str, Any]) -> Self:
        made = object.__new__(cls)
        made.__dict__.update(parts)
        return made


def write(folder: Path, value: Any) -> None:
    """Write a value into an empty folder. Raises NotKept for one that holds what is not known here."""
    writer = _Writer(folder)
    tree = writer.encoded(value)
    (folder / ABOUT).write_text(json.dumps([tree, writer.classes]), encoding="utf-8")


def read(folder: Path, packages: Sequence[str]) -> Any:
    """What was written. packages: those whose classes may be made. Raises Damaged where a file that it shares with another folder has
    changed since."""
    tree, classes = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return _Reader(folder, classes, packages).decoded(tree)


class _Writer:
    def __init__(self, folder: Path):
        self.folder, self.classes, self._files = folder, [], 0
        self._written: dict[int, tuple[Any, Any]] = {}

    def encoded(self, value: Any, shared: bool = True) -> Any:
        """A value in JSON types. shared: whether equal arrays and columns are written once."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if shared and isinstance(value, np.ndarray | Sequence) and not isinstance(value, bytes) and len(value):
            if id(value) not in self._written:
                self._written[id(value)] = value, self._compound(value)
            return self._written[id(value)][1]
        return self._compound(value)

    def _compound(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {_ARRAY: self._array(value)}
        if isinstance(value, Mapping):
            return {DICT: [[self.encoded(key), self.encoded(item)] for key, item in value.items()]}
        if isinstance(value, frozenset):
            return {_SET: sorted(value)}
        if isinstance(value, bytes):
            return {_BYTES: base64.b64encode(value).decode()}
        if isinstance(value, Sequence):
            return self._sequence(value)
        if isinstance(value, Path):
            return {_PATH: str(value)}
        if type(value).__module__.startswith("torch") and hasattr(value, "numpy"):
            return {_TENSOR: self._array(value.numpy())}
        return self._object(value)

    def _sequence(self, value: Any) -> Any:
        if isinstance(value, StoredTexts):
            return {_TEXTS: self._text_file(value)}
        if isinstance(value, RowColumn):
            return {_ROWS: [value.classes, *self._text_file(value.texts)]}
        if len(value) > LONG:
            if all(isinstance(item, str) for item in value):
                return {_TEXTS: self._text_file(value)}
            classes: list[str] = []
            rows = (json.dumps(row_tree(item, classes), separators=(",", ":")) for item in value)
            place = self._text_file(rows)
            return {_ROWS: [classes, *place]}
        items = [self.encoded(item) for item in value]
        return {LIST: items} if isinstance(value, list) else items

    def _object(self, value: Any) -> Any:
        kind = type(value)
        if hasattr(kind, "kept_parts"):
            return {OBJECT: [class_number(kind, self.classes), self.encoded(value.kept_parts())]}
        if not is_dataclass(value):
            raise NotKept(f"a {kind.__module__}.{kind.__qualname__}")
        parts = [self.encoded(getattr(value, item.name)) for item in fields(value) if not item.name.startswith("_")]
        cached = {name: getattr(value, name) for name in getattr(kind, "kept_properties", ())}
        return {OBJECT: [class_number(kind, self.classes), *parts, self.encoded(cached)]}

    def _name(self) -> str:
        self._files += 1
        return str(self._files)

    def _array(self, array: np.ndarray) -> list[Any]:
        if array.dtype.hasobject:
            raise NotKept(f"an array of {array.dtype}")
        if (path := _mapped_from(array)) is not None:
            return [str(path), *stamp(path), getattr(array, "mode", "r")]
        name = f"{self._name()}.npy"
        if not array.nbytes:
            np.save(self.folder / name, array)
            return [name]
        target = new_array(self.folder / name, array.dtype, array.shape)
        step = max(1, BLOCK // max(array[:1].nbytes, 1)) if array.ndim else 1
        if array.ndim:
            for first in range(0, len(array), step):
                target[first : first + step] = array[first : first + step]
        else:
            target[...] = array
        target.flush()
        return [name]

    def _text_file(self, texts: Any) -> list[Any]:
        if isinstance(texts, StoredTexts) and texts.named:
            return [str(texts.path), *stamp(texts.path)]
        name = f"{self._name()}.text"
        write_texts(self.folder / name, texts)
        return [name]


class _Reader:
    def __init__(self, folder: Path, classes: list[str], packages: Sequence[str]):
        self.folder, self.packages = folder, packages
        self.classes = [class_named(name) for name in self.permitted(classes)]

    def permitted(self, classes: list[str]) -> list[str]:
        """These names of classes, all below the packages that are permitted."""
        for name in classes:
            if name.partition(":")[0].partition(".")[0] not in self.packages:
                raise Damaged(f"{self.folder} holds a {name}")
        return classes

    def decoded(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return tuple(self.decoded(item) for item in tree)
        if not isinstance(tree, dict):
            return tree
        ((kind, content),) = tree.items()
        if kind == LIST:
            return [self.decoded(item) for item in content]
        if kind == DICT:
            return {self.decoded(key): self.decoded(item) for key, item in content}
        if kind == _ARRAY:
            return self._array(*content)
        if kind == _TENSOR:
            import torch

            return torch.from_numpy(np.array(self._array(*content)))
        if kind == _TEXTS:
            return self._texts(*content)
        if kind == _ROWS:
            return RowColumn(self._texts(*content[1:]), self.permitted(content[0]))
        if kind == OBJECT:
            return self._object(self.classes[content[0]], content[1:])
        plain = {_SET: frozenset, _BYTES: base64.b64decode, _PATH: Path}
        return plain[kind](content)

    def _object(self, kind: type, content: list[Any]) -> Any:
        if hasattr(kind, "kept_parts"):
            return kind.of_kept_parts(self.decoded(content[0]))
        made = object.__new__(kind)  # what was checked when it was made is not checked again
        shown = [item for item in fields(kind) if not item.name.startswith("_")]
        for item, value in zip(shown, content[:-1], strict=True):
            object.__setattr__(made, item.name, self.decoded(value))
        for item in fields(kind):
            if item.name.startswith("_") and item.default is not MISSING:
                object.__setattr__(made, item.name, item.default)
        made.__dict__.update(self.decoded(content[-1]))
        return made

    def _array(self, name: str, *known: Any) -> np.ndarray:
        path = self._path(name, known[:-1])
        mode = known[-1] if known else "r"
        small = path.stat().st_size <= INLINE
        return np.load(path, mmap_mode=None if small else mode, allow_pickle=False)

    def _texts(self, name: str, *known: Any) -> StoredTexts:
        return StoredTexts(self._path(name, known))

    def _path(self, name: str, known: Sequence[int]) -> Path:
        path = self.folder / name  # a name with its whole path stays as it is
        try:
            same = not known or stamp(path) == tuple(known)
        except OSError:
            same = False
        if not same:
            raise Damaged(f"{path} has changed since {self.folder} was made")
        return path


def _mapped_from(array: np.ndarray) -> Path | None:
    """The .npy file that a memory map is the whole of, in a folder of `decoded`."""
    path = getattr(array, "filename", None)
    if path is None or "decoded" not in Path(path).parts or getattr(array, "mode", None) not in ("r", "c"):
        return None
    try:
        whole = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    same = (whole.shape, whole.dtype) == (array.shape, array.dtype) and array.flags.c_contiguous
    if not same or whole.strides != array.strides:
        return None
    return Path(path)
