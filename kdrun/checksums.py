"""Checksums of files that are read again: seals at the end of single files, manifests of folders, and who is told what was mended.

FILE              its content, then SEAL and the sha256 of the content (torch's files allow that)
FOLDER/manifest.json   {"files": {name: sha256}, ...}, itself sealed as JSON (see kdrun.files)
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdrun.files import Damaged, Writer, read_json, sha256_file, write_json, writing

MANIFEST = "manifest.json"
SEAL = b"\nkdrun sha256 "
LENGTH = len(SEAL) + 32
MENDED = "kdrun.mended"


def mended(text: str) -> None:
    """Tell that something was damaged and what becomes of it: in the run's log and, while a job runs, on the terminal."""
    logging.getLogger(MENDED).warning(text)


@contextmanager
def told(tell: Callable[[str], None]) -> Iterator[None]:
    """While entered, `tell(text)` is called with what `mended` is called with; the same text is told once."""
    handler = _Telling(tell)
    logger = logging.getLogger(MENDED)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False  # a report writes what it is told into the log by itself
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


class _Telling(logging.Handler):
    def __init__(self, tell: Callable[[str], None]):
        super().__init__()
        self._tell, self._texts = tell, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._texts:
            self._texts.add(text)
            self._tell(text)


@contextmanager
def sealing(path: Path) -> Iterator[Writer]:
    """As `files.writing`; the file ends with its checksum."""
    with writing(path) as file:
        yield file
        file.write(SEAL + file.digest.digest())


def check_seal(path: Path) -> None:
    """Raises Damaged where the file is not what `sealing` wrote."""
    size, digest = path.stat().st_size - LENGTH, hashlib.sha256()
    with open(path, "rb") as file:
        for start in range(0, size, 1 << 20):
            digest.update(file.read(min(1 << 20, size - start)))
        if size < 0 or file.read() != SEAL + digest.digest():
            raise Damaged(f"{path} is damaged: it is not what was written to it")


def previous_of(path: Path) -> Path:
    """Where `keep_previous` leaves what `path` held before."""
    return path.with_name(f"previous-{path.name}")


def keep_previous(path: Path) -> None:
    """Before `path` is replaced: what it holds stays beside it, to fall back to; of a file system without links nothing does."""
    if path.is_file():
        previous_of(path).unlink(missing_ok=True)
        with suppress(OSError):
            os.link(path, previous_of(path))


def write_manifest(folder: Path, names: Iterable[str], **fields: Any) -> None:
    """Write `manifest.json` with the checksums of these files, and further fields."""
    write_json(folder / MANIFEST, {**fields, "files": {name: sha256_file(folder / name) for name in names}})


def read_manifest(folder: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """The manifest of a folder, every file of which was compared with it. `required` names files that it must list.

    Raises Damaged, with the names of the files that are not what was written.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        files = dict(manifest["files"])
        wrong = [name for name, digest in files.items() if _digest(folder / name) != digest]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / MANIFEST} is damaged ({type(error).__name__})") from error
    wrong += [name for name in required if name not in files]
    if wrong:
        raise Damaged(f"wrong content in {', '.join(wrong)} of {folder}")
    return manifest


def checksum_of(path: Path) -> str:
    """The checksum that the manifest beside `path` lists for it; the file itself is not read."""
    return str(read_json(path.parent / MANIFEST)["files"][path.name])


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest, or with the states of an unfinished stage; None where nothing is."""
    try:
        if (folder / MANIFEST).is_file() and "files" in read_json(folder / MANIFEST):
            read_manifest(folder)
        for path in (folder / "checkpoint.pt", previous_of(folder / "checkpoint.pt")):
            if path.is_file():
                check_seal(path)
        for path in folder.rglob("*.json"):
            read_json(path)
    except (ValueError, TypeError) as error:
        return str(error).splitlines()[0]
    return None


def finished(folder: Path, parts: dict[str, Any], names: Iterable[str], what: str) -> bool:
    """Whether a folder of arrays has been finished, with these `parts` in its manifest. One that was, and is not what was written, is
    emptied, and told: it is computed again."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        if read_manifest(folder, names).get("parts") != json.loads(json.dumps(parts)):
            raise Damaged(f"{folder} holds what belongs elsewhere")
    except Damaged as damage:
        mended(f"{what}: {damage}; computed again")
        empty(folder)
        return False
    return True


def empty(folder: Path) -> None:
    """Remove the manifest of a folder, then its arrays."""
    for path in (folder / MANIFEST, *folder.glob("*.npy")):
        path.unlink(missing_ok=True)


def belongs(path: Path) -> bool:
    """Whether the manifest beside `path` lists it, or there is none. Raises Damaged where it is listed and is something else."""
    if not (path.parent / MANIFEST).is_file():
        return True
    files = read_json(path.parent / MANIFEST).get("files") or {}
    if path.name in files and _digest(path) != files[path.name]:
        raise Damaged(
            f"{path} is damaged: it is not what was written to it",
            "the command that made it makes it again: kdrun rerun RUN",
        )
    return path.name in files


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None
