"""Files that are written whole or not at all, and JSON in which a NaN stays visible.

JSON has no NaN. Python's writer would emit the word NaN, which other readers refuse, and null would make a diverged
loss look like one that was never measured. So non-finite numbers are stored as the strings "nan", "inf" and "-inf", and
`read_json` turns these three words into numbers again. null keeps its one meaning: not measured.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kdrun.problems import UserError

if TYPE_CHECKING:
    import numpy as np

NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
PIECE = 1 << 20
_SEALED = re.compile(rb"\n([ \t]{64})\n\Z")
"""The checksum of a sealed JSON file stands in blanks behind it, so that the file is the same JSON to every other reader. A file
without it was written by another program (or an older kdrun), and is read as it is."""
_SEALED_LINE = re.compile(rb"(?<=[^ \t])[ \t]{32}\Z")


class Damaged(UserError, ValueError):
    """A file is not what was written to it. `lines` names the path and what to do."""


def utf8(text: str) -> bytes:
    """Half a character, as JSON may hold it, is written as JSON writes it."""
    return text.encode(errors="backslashreplace")


def write_atomic(path: str | os.PathLike[str], content: bytes | str, durable: bool = True) -> None:
    """Write `content` (text as UTF-8) to `path`: a reader sees the old file or the new one, also after a power cut."""
    data = utf8(content) if isinstance(content, str) else content
    with writing(path, len(data), durable) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], size: int | None = None, durable: bool = True) -> Iterator[Writer]:
    """A binary file that appears under `path` when the block has ended, whole; an error leaves nothing of it.

    Temporary file in the same folder, fsync (where `durable`), rename, fsync of the folder. size: bytes that will be written,
    where that is known; it is told when the disk is full. OSErrors name `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with located(path, size):
        raw = open(temporary, "xb")  # noqa: SIM115 - closed below
    writer = Writer(raw)
    try:
        yield writer
        with located(path, size), raw:
            raw.flush()
            if durable:
                os.fsync(raw.fileno())
        with located(path, size):
            os.replace(temporary, path)
    except BaseException as error:
        for undo in (raw.close, lambda: os.unlink(temporary)):
            with contextlib.suppress(OSError):
                undo()
        if writer.error is None:
            raise
        with located(path, size):  # what calls the writer may have made something else of it (torch does)
            raise writer.error from error
    if durable:
        sync_folder(path.parent)


class Writer:
    """The file of `writing`. digest: sha256 of what was written so far; error: what the disk answered, if it refused."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return len(data)

    def reserve(self, size: int) -> None:
        """So many zeros, whose room on the disk is taken. They are not in `digest`."""
        try:
            self._file.flush()
            start = self._file.tell()
            if size == 0:
                return
            try:
                os.posix_fallocate(self._file.fileno(), start, size)
            except (AttributeError, OSError) as error:  # not every system or file system has it
                if getattr(error, "errno", None) not in (None, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                for first in range(0, size, PIECE):
                    self._file.write(bytes(min(PIECE, size - first)))
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing: `writing` flushes."""


@contextlib.contextmanager
def located(path: str | os.PathLike[str], size: int | None = None) -> Iterator[None]:
    """OSErrors of the block name `path` (that of a temporary file says nothing to anybody) and the bytes that are needed."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        again = OSError(error.errno, error.strerror, str(path))
        again.__dict__["needed"] = size
        raise again from error


def new_array(path: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped .npy file of zeros whose room is taken before it is mapped: on a full disk this raises OSError, where
    writing to a sparse map would end the process by SIGBUS. Nothing is left of it then."""
    import numpy as np

    path = Path(path)
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, dtype)) | {"shape": shape}
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with writing(path, size, durable=False) as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.reserve(size)
    return np.lib.format.open_memmap(path, mode="r+")


def open_array(path: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """The .npy file at `path`, mapped to be read and written; made anew, of zeros, where it is another array or not there."""
    import numpy as np

    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, OverflowError, EOFError, KeyError):
        size = os.stat(path).st_size  # before numpy extends a file that was cut, by a hole in it
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape == shape and array.dtype == dtype and array.offset + array.nbytes == size:
            return array
    return new_array(path, dtype, shape)


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


def write_json(path: str | os.PathLike[str], value: Any, seal: bool = True, durable: bool = True) -> None:
    """Atomic JSON; see `plain` for what may be in it. seal: with a checksum, which `read_json` checks."""
    text = dump_json(value) + "\n"
    if seal:
        text += _blanks(utf8(text)).decode() + "\n"
    write_atomic(path, text, durable)


def read_json(path: str | os.PathLike[str]) -> Any:
    """What `write_json` wrote, NaN included. ValueError naming the file if it is not JSON; Damaged (which is one) if it was
    sealed and is not what was written; OSError if unreadable."""
    content = Path(path).read_bytes()
    if (sealed := _SEALED.search(content, max(0, len(content) - 66))) and _blanks(
        content[: sealed.start() + 1]
    ) != sealed[1]:
        raise Damaged(
            f"{path} is damaged: it is not what was written to it",
            "(where it was edited by hand: remove the blanks at its end, which are its checksum)",
        )
    try:
        value = json.loads(content)
        return _restore(value) if b'nan"' in content or b'inf"' in content else value
    except (ValueError, RecursionError) as error:  # the second: thousands of brackets in each other
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def seal_line(text: str) -> str:
    """A line of JSON with the crc32 of its text behind it, in blanks; `check_line` compares them."""
    return text + _as_blanks(zlib.crc32(utf8(text)), 32)


def check_line(line: bytes) -> None:
    """ValueError where a line that `seal_line` sealed is not what was written; others are taken as they are."""
    if (sealed := _SEALED_LINE.search(line)) and _as_blanks(zlib.crc32(line[: sealed.start()]), 32).encode() != sealed[
        0
    ]:
        raise ValueError("it is not what was written")


def _blanks(content: bytes) -> bytes:
    """The first 64 bits of the content's sha256."""
    return _as_blanks(int.from_bytes(hashlib.sha256(content).digest()[:8]), 64).encode()


def _as_blanks(value: int, bits: int) -> str:
    """Bits as spaces (0) and tabs (1), the highest first."""
    return f"{value:0{bits}b}".translate({48: " ", 49: "\t"})


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


def short(path: str | os.PathLike[str]) -> str:
    """Relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
