"""Rows of tokens of large corpora, made once and then read through memory maps."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.decoded import decoded
from kdrun.data.ragged import Ragged
from kdrun.domains.language.loader import LanguageSamples, Origins
from kdrun.domains.language.source import Document, written
from kdrun.files import new_array

LEAST = 1 << 21
"""Characters of a split below which its rows are made each time: that is faster than to read them is worth."""
VERSION = 2
"""Of what is on disk; another one is made again."""
ABOUT = "about.json"
Made = tuple[LanguageSamples, list[str]]


def kept(cache: Path, documents: Sequence[Document], key: Any, make: Callable[[Path | None], Made]) -> Made:
    """What make(folder) gives, (rows, notes): of LEAST characters or more from memory maps below `cache`, where the same documents with the
    same key (JSON) were made into rows before, and made for it where not.

    A batch then reads the pages that its rows are in, and whatever else wants the memory may have it. make: of None in memory; of a
    folder with tokens in files there (see rows.packed), so that they need no memory when they are made either.
    """
    sizes = itertools.accumulate(len(written(document)) for document in documents)
    if not any(size >= LEAST for size in sizes):
        return make(None)
    content = hashlib.sha256()
    for document in documents:
        content.update(json.dumps(document).encode())
        content.update(b"\n")
    folder = decoded(cache, "tokens", [VERSION, key, content.hexdigest()], lambda work: _write(work, *make(work)))
    about = json.loads((folder / ABOUT).read_text())
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in about["arrays"]}
    return _samples(arrays, about["pad"]), about["notes"]


def _write(folder: Path, samples: LanguageSamples, notes: list[str]) -> None:
    arrays = _arrays(samples)
    for name, array in arrays.items():
        there = isinstance(array, np.memmap)
        target = array if there else new_array(folder / f"{name}.npy", array.dtype, array.shape)
        if not there:
            target[:] = array
        target.flush()
    about = {"arrays": list(arrays), "pad": samples.pad, "notes": notes}
    (folder / ABOUT).write_text(json.dumps(about))


def _arrays(samples: LanguageSamples) -> dict[str, np.ndarray]:
    parts = {} if samples.parts is None else {"parts": samples.parts.flat}
    origins = {f"origin_{name}": getattr(samples.origins, name) for name in ("starts", "document", "begin")}
    columns = {"ids": samples.ids.numpy(), "tokens": samples.tokens.flat, "starts": samples.tokens.starts}
    return {**columns, "bytes": samples.bytes.flat, **parts, **origins}


def _samples(arrays: dict[str, np.ndarray], pad: int) -> LanguageSamples:
    starts = np.array(arrays["starts"])
    parts = Ragged(arrays["parts"], starts) if "parts" in arrays else None
    origins = Origins(*(np.array(arrays[f"origin_{name}"]) for name in ("starts", "document", "begin")))
    return LanguageSamples(arrays["ids"], Ragged(arrays["tokens"], starts), arrays["bytes"], parts, pad, origins)
