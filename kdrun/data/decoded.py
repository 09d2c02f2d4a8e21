"""Folders of decoded data in the cache, each named by a hash of what it was made from; whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kdrun.checksums import MANIFEST, mended, read_manifest, write_manifest
from kdrun.data.folders import relative
from kdrun.files import Damaged, new_array, read_json, sync_folder, write_json
from kdrun.problems import UserError

THREADS = 8
TOGETHER = 32
"""Files that a thread is given at a time."""
RAW = "raw.npy"
COMPARED = ".compared.json"
"""In a folder: stamps of its files when they were compared with their checksums."""
BLOCK = 64
"""Rows that are copied at a time."""

Made = TypeVar("Made")


def decoded(cache: str | Path, name: str, key: Any, make: Callable[[Path], None]) -> Path:
    """The folder `<cache>/decoded/<name>-<hash of key>`, made by `make(folder)` if it is not there.

    Two processes do not make it twice; one that is killed leaves nothing that looks finished. Files are compared with the
    checksums that they were made with whenever a stamp of one (see `stamp`) is not what it was when they were compared last; a folder that is
    damaged (or older than checksums) is made again.
    """
    from filelock import FileLock

    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    folder = Path(cache) / "decoded" / f"{name}-{digest}"
    if _whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _whole(folder):
            return folder
        if folder.is_dir():
            mended(f"{folder} is damaged; made again")
            shutil.rmtree(folder)
        work = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            make(work)
            write_manifest(work, sorted(path.name for path in work.iterdir()), parts=folder.name)
        except BaseException:  # what is half done would keep the room that something else needs
            shutil.rmtree(work, ignore_errors=True)
            raise
        for path in work.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(work)
        work.rename(folder)
        _note_compared(folder)
        sync_folder(folder.parent)
    return folder


def stamp(path: str | Path) -> tuple[int, int, int, int]:
    """What changes when a file does: its length, its times of change and of its entry (which nobody can set back), its number."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def digests(root: Path, files: Sequence[Path], cache: str | Path) -> list[str]:
    """sha256 hex digest of every file below `root`; files are read again only where a name or a stamp is another."""

    def hash_all(target: Path) -> None:
        (target / "digests.json").write_text(json.dumps(in_threads(_digest, files)))

    seen = [[relative(path, root), *stamp(path)] for path in files]
    folder = decoded(cache, "file_hashes", [str(root.resolve()), seen], hash_all)
    return json.loads((folder / "digests.json").read_text())


def in_threads(function: Callable[[Any], Made], items: Sequence[Any]) -> list[Made]:
    """`function(item)` of each, in their order. A thread is given several at a time: to hand over one takes as long as to hash a small file."""

    def some(first: int) -> list[Made]:
        return [function(item) for item in items[first : first + TOGETHER]]

    with ThreadPoolExecutor(THREADS) as pool:
        return [made for block in pool.map(some, range(0, len(items), TOGETHER)) for made in block]


def keep_rows(raw: np.ndarray, rows: np.ndarray, target: Path, about: dict[str, Any]) -> None:
    """Write pixels.npy, these rows (ascending) of the memory map RAW in the folder, which goes, and about.json."""
    if len(rows) == len(raw):
        raw.flush()
        (target / RAW).rename(target / "pixels.npy")
    else:
        pixels = new_array(target / "pixels.npy", raw.dtype, (len(rows), *raw.shape[1:]))
        for start in range(0, len(rows), BLOCK):
            pixels[start : start + BLOCK] = raw[rows[start : start + BLOCK]]
        pixels.flush()
        (target / RAW).unlink()
    (target / "about.json").write_text(json.dumps(about))


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None


def _whole(folder: Path) -> bool:
    """Whether a folder is what was made; its files are read only where that is not known of these files as they are."""
    try:
        manifest = read_json(folder / MANIFEST)
        if read_json(folder / COMPARED) == _stamps(folder):
            return manifest["parts"] == folder.name
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        whole = folder.is_dir() and read_manifest(folder)["parts"] == folder.name
    except (Damaged, KeyError):
        return False
    if whole:
        _note_compared(folder)
    return whole


def _stamps(folder: Path) -> dict[str, list[int]]:
    names = (MANIFEST, *read_json(folder / MANIFEST)["files"])
    return {name: list(stamp(folder / name)) for name in names}


def _note_compared(folder: Path) -> None:
    with suppress(OSError):  # a cache that may only be read
        write_json(folder / COMPARED, _stamps(folder))
