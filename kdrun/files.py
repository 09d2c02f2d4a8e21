"""Files that are written whole or not at all, and JSON in which a NaN stays visible.

JSON has no NaN. Python's writer would emit the word NaN, which other readers refuse, and null would make a diverged
loss look like one that was never measured. So non-finite numbers are stored as the strings "nan", "inf" and "-inf", and
`read_json` turns these three words into numbers again. null keeps its one meaning: not measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`: a reader sees the old file or the new one, also after a power cut.

    Temporary file in the same folder, fsync, rename, fsync of the folder. The temporary file is removed on any error.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames and new names in `folder` durable. Does nothing where folders cannot be opened (Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(value: Any) -> Any:
    """`value` with only JSON types: non-finite floats as strings, tuples and sets as lists, paths as text, scalars of
    numpy or torch as numbers. TypeError for anything else: a record must not hold the repr of an object."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else non_finite_name(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(getattr(value, "item", None)):
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} cannot be stored in a record: {value!r:.80}")


def non_finite_name(value: float) -> str:
    """ "nan", "inf" or "-inf"."""
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def number(value: Any) -> float | int | None:
    """A number as it was before it was written, None for null, and None for anything that is not a number."""
    if isinstance(value, str):
        return NON_FINITE.get(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def dump_json(value: Any, indent: int | None = 1) -> str:
    """JSON text with sorted keys, so that equal content gives equal bytes."""
    return json.dumps(plain(value), indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Atomic JSON; see `plain` for what may be in it."""
    write_atomic(path, dump_json(value) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """What `write_json` wrote, NaN included. ValueError naming the file if it is not JSON; OSError if unreadable."""
    content = Path(path).read_bytes()
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    return _restore(value) if b'nan"' in content or b'inf"' in content else value


def _restore(value: Any) -> Any:
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return value


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex digest of the content, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
