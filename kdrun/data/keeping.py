"""What was made from files is made once: sources and rows of tokens, kept by what they were made from, and mapped.

    source_key   what a source reads: its options, and its files by size and stamps first, by content where these are new
    keep         the value for a key, from `<cache>/decoded/KIND-HASH` where it is there (columns)

A source says in an attribute `reads` which of its options name files and folders, or has there a function of its options and `cache` that
gives their paths (fetch.place of what is fetched); one without it is read in each process. A killed writer leaves nothing that looks finished, two
do not write twice (decoded).
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache as once_a_process
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from kdrun import targets
from kdrun.checksums import MANIFEST
from kdrun.data import columns, kept
from kdrun.data.decoded import decoded, digests, stamp
from kdrun.data.folders import visible
from kdrun.files import Damaged

KEPT_AS = "kept_as"
"""Key of the config of a data module: what its rows may be kept by (JSON), all that they depend on but tokenizers; None: they are not."""
LEAST = 4 << 20
"""Bytes of files below which nothing is kept: to read them again costs less than a second."""
HASHED = 10_000
"""Files above which their stamps stand for them: what is in so many is found out by their own source (decoded.digests)."""
NOTHING = (0, 0, 0, 0)
"""Stamp of a file that is not there."""
LIBRARIES = ("numpy", "pillow", "pyarrow", "datasets", "sentencepiece", "tokenizers", "transformers")
PACKAGE = Path(__file__).parents[1]
ROOMS = ("data", "domains")
"""Rooms of kdrun whose code reads data."""

Made = TypeVar("Made")
Stamp = tuple[int, int, int, int]


def keep(cache: str | Path, kind: str, key: Any, make: Callable[[], Made]) -> Made:
    """What `make()` gives for this key (JSON), made once and then mapped; of a key that is None, and where it cannot be written, as it is made.

    Its arrays may not be written to."""
    if key is None:
        return make()
    made: list[Made] = []

    def write(folder: Path) -> None:
        made.append(make())
        columns.write(folder, made[0])

    packages = (PACKAGE.name, *(key[0] if isinstance(key[0], list) else ()))
    for last in (False, True):
        try:
            folder = decoded(cache, kind, [_versions(), key], write)
            return columns.read(folder, packages)
        except columns.NotKept:
            return made[0]
        except Damaged:
            if last:
                raise
            (folder / MANIFEST).unlink(missing_ok=True)  # so that it is made again
    raise AssertionError


def once(cache: str | Path | None, kind: str, key: Any, make: Callable[[], Any]) -> Any:
    """As kept.once, of what depends on the code that reads data as well."""
    return kept.once(cache, kind, key and [_versions(), key], make)


class Changed(Exception):
    """What was made of files that changed while they were read. made: the value."""

    def __init__(self, made: Any):
        super().__init__("files changed while they were read")
        self.made = made


def kept_source(cache: str | Path, key: Any, now: Callable[[], Any], make: Callable[[], Any]) -> tuple[Any, Any]:
    """(the source that `make()` gives, the key it is kept by). key: of source_key; now: what makes it again.

    A source that reads more files than its options name, as images that entries of a file name, has them in `watched`, paths: they are looked up
    by their stamps before it is taken as it was."""
    if key is None:
        return make(), None
    made: list[Any] = []

    def source() -> Any:
        if not made:
            made.append(make())
            if now() != key:
                raise Changed(made[0])
        return made[0]

    try:
        names = keep(cache, "watched", key, lambda: getattr(source(), "watched", ()))
        whole = [*key, _stamps(names)] if len(names) else key
        return keep(cache, "source", whole, source), whole
    except Changed as changed:
        return changed.made, None


def source_key(node: Mapping[str, Any], cache: str | Path, slot: str = "source") -> list[Any] | None:
    """What the source of this node reads, in JSON types; None for one that does not say it, or reads less than LEAST bytes."""
    total, key = _source_key(node, cache, slot)
    return key if total >= LEAST else None


def _source_key(node: Mapping[str, Any], cache: str | Path, slot: str) -> tuple[int, list[Any] | None]:
    function = targets.locate(node["_target_"], slot)
    reads = getattr(function, "reads", None)
    if reads is None:
        return 0, None
    options = {name: value for name, value in targets.plain(node).items() if name not in targets.RESERVED}
    named = reads({**options, "cache": cache}) if callable(reads) else [options.get(name) for name in reads]
    total, parts = 0, []
    for path in named:
        if path is not None:
            size, content = _content(Path(path).expanduser(), cache)
            total += size
            parts.append(content)
    for name, inner in sorted(_nodes(options)):
        size, key = _source_key(inner, cache, slot)
        if key is None:
            return 0, None
        total += size
        parts.append([name, key])
    package = function.__module__.partition(".")[0]
    written = [] if package == PACKAGE.name else [_file_hash(inspect.getsourcefile(function))]
    return total, [[package], node["_target_"], options, written, parts]


def _nodes(value: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, node) of the sources among the options of one."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, dict) and "_target_" in item:
            yield f"{name}.{key}", item
        else:
            yield from _nodes(item, f"{name}.{key}")


def _content(path: Path, cache: str | Path) -> tuple[int, str]:
    """(bytes, hash of the names and the content of the files at a path, or below it; above HASHED files of their stamps)."""
    found, first, count = _listing(path), [], 0
    for part in found:
        first.append(part)
        count += len(part[1])
        if count > HASHED:
            return _stamped(chain(first, found))
    listed = [
        (os.path.join(folder, name), known) for folder, *files in first for name, known in zip(*files, strict=True)
    ]
    size = sum(known[0] for _, known in listed)
    told: Iterable[Any] = listed
    if size >= LEAST:
        files = [Path(name) for name, known in listed if known != NOTHING]
        root = path if path.is_dir() else path.parent
        told = zip(map(str, files), digests(root, files, cache), strict=True)
    whole = hashlib.sha256()
    for entry in told:
        whole.update(repr(entry).encode("utf-8", "surrogateescape"))
    return size, whole.hexdigest()


def _stamped(found: Iterable[tuple[str, list[str], list[Stamp]]]) -> tuple[int, str]:
    """(bytes, hash of names and stamps) of many files, none of which is held in memory."""
    whole, size = hashlib.sha256(), 0
    for folder, names, stamps in found:
        whole.update(repr((folder, names, stamps)).encode("utf-8", "surrogateescape"))
        size += sum(known[0] for known in stamps)
    return size, whole.hexdigest()


def _listing(path: Path) -> Iterator[tuple[str, list[str], list[Stamp]]]:
    """(folder, names of the files in it, their stamps) of a file, or of a folder and all visible ones below it, in the order of their names."""
    try:
        with os.scandir(path) as found:
            entries = sorted((entry for entry in found if visible(entry.name)), key=lambda entry: entry.name)
    except NotADirectoryError:
        yield str(path.parent), [path.name], [stamp(path)]
        return
    except OSError:
        return
    names, stamps, folders = [], [], []
    for entry in entries:
        try:
            if entry.is_dir():
                folders.append(entry)
                continue
            status = entry.stat()
            known = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
        except OSError:  # a link to nothing, or to itself
            known = NOTHING
        names.append(entry.name)
        stamps.append(known)
    yield str(path), names, stamps
    for entry in folders:
        if not entry.is_symlink() or not _above(entry.path, path):
            yield from _listing(Path(entry.path))


def _above(link: str, folder: Path) -> bool:
    """Whether a link leads to a folder that it lies in."""
    real = os.path.realpath(link)
    return f"{os.path.realpath(folder)}{os.sep}".startswith(f"{real}{os.sep}")


def _stamps(names: Iterable[str]) -> str:
    """Hash of the stamps of files, those that are not there included."""
    whole = hashlib.sha256()
    for name in names:
        try:
            known = stamp(name)
        except (OSError, ValueError):
            known = NOTHING
        whole.update(b"%d %d %d %d\n" % known)
    return whole.hexdigest()


@once_a_process
def _versions() -> list[str]:
    """What may read the same files otherwise: code of kdrun, and libraries."""
    whole = hashlib.sha256()
    for room in ROOMS:
        for path in sorted(PACKAGE.joinpath(room).rglob("*.py")):
            whole.update(path.read_bytes())
    return [whole.hexdigest(), *map(_version, LIBRARIES)]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _file_hash(path: str | None) -> str:
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
