"""The content-addressed store of finished stages, and the work folders of unfinished ones.

    <root>/stages/<ab>/<fingerprint>/   manifest.json (sha256 of every file), record.json, metrics.jsonl, *.safetensors
    <root>/unfinished/<fingerprint>/    checkpoint and metrics of a stage that has not ended yet
    <root>/outputs/<key>/               outputs of a teacher on a data view (see learning/cache.py)
    <root>/locks/                       one lock per fingerprint: whoever comes second waits and finds the result

A finished stage appears by one rename of a folder whose files are already on the disk, so it is there whole or not at
all. Locks are `filelock`'s: the system frees them when their process dies.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from kdrun.checksums import MANIFEST, mended, previous_of, read_manifest, write_manifest
from kdrun.files import Damaged, read_json, write_json
from kdrun.locks import hold, waiting_text

RECORD = "record.json"
RESULTS = ("metrics.jsonl", "samples.*.jsonl", "samples-last.*.jsonl", "*.safetensors", "data.*")
ANEW = "anew"
STRAY = "stray-"
"""Before the name of a file that somebody put into the folder of a stage."""


class DamagedStage(Damaged, RuntimeError):
    """A stored stage is not what was stored: a file has another checksum, or it is another stage."""


class Store:
    """One store below `root` (created when first written to).

    while_waiting is called again and again while another process holds a lock; it may raise to give up.
    """

    def __init__(self, root: str | Path, while_waiting: Callable[[], None] = lambda: None):
        self.root = Path(root)
        self._while_waiting = while_waiting

    def folder(self, fingerprint: str) -> Path:
        return self.root / "stages" / fingerprint[:2] / fingerprint

    def work(self, fingerprint: str) -> Path:
        """The work folder of a stage, created if need be."""
        path = self.root / "unfinished" / fingerprint
        path.mkdir(parents=True, exist_ok=True)
        return path

    def begin(self, fingerprint: str, anew: bool) -> Path:
        """The work folder of a stage that is about to run: with the state of an earlier try, and without files that look like its
        results. anew: the state goes too, unless it is of a try that was made anew as well (and then interrupted)."""
        work = self.work(fingerprint)
        if anew and not (work / ANEW).is_file():
            shutil.rmtree(work)
            (self.work(fingerprint) / ANEW).touch()
        for path in self.results(work):
            path.unlink()
        return work

    @staticmethod
    def results(work: Path) -> list[Path]:
        """Files of a work folder that are results of its stage, rather than its state."""
        paths = sorted(path for pattern in RESULTS for path in work.glob(pattern))
        return [path for path in paths if not path.name.startswith("best-")]  # those are beside a checkpoint

    def has(self, fingerprint: str) -> bool:
        return (self.folder(fingerprint) / "manifest.json").is_file()

    def unfinished(self, fingerprint: str) -> bool:
        """Whether an earlier try left a checkpoint to go on from."""
        folder = self.root / "unfinished" / fingerprint
        states = (folder / "checkpoint.pt", folder / "federation" / "state.json", folder / "generated.part")
        return any(path.is_file() or previous_of(path).is_file() for path in states)

    def get(self, fingerprint: str) -> dict[str, Any] | None:
        """The record of a finished stage, its files verified; None if it is not there.

        A stage whose files were damaged is moved aside (never deleted) and reported by DamagedStage.
        """
        folder = self.folder(fingerprint)
        if not self.has(fingerprint):
            if folder.is_dir():
                mended(f"stored stage {fingerprint[:12]} has no {MANIFEST}: it does not count")
            return None
        try:
            return _checked(folder, fingerprint)
        except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
            aside = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
            folder.rename(aside)
            raise DamagedStage(
                f"stored stage {fingerprint[:12]}: {(str(error).splitlines() or [''])[0]}", f"moved to {aside}"
            ) from error

    def put(self, fingerprint: str, files: list[Path], record: dict[str, Any]) -> Path:
        """Move the finished `files` of a work folder into the store, with their record; return the stage's folder."""
        final = self.folder(fingerprint)
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = self.work(fingerprint) / "finished"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for path in files:
            path.replace(staging / path.name)
        write_json(staging / RECORD, record)
        write_manifest(staging, sorted(path.name for path in staging.iterdir()), fingerprint=fingerprint)
        for path in (*staging.iterdir(), staging):
            _sync(path)
        old = None
        if final.exists():  # fitted anew on request, or half-deleted by hand: what is new and whole wins
            old = final.rename(final.with_name(f"{final.name}.replaced-{time.time_ns()}"))
        staging.rename(final)
        if old is not None:
            shutil.rmtree(old)
        _sync(final.parent)
        shutil.rmtree(self.root / "unfinished" / fingerprint, ignore_errors=True)
        return final

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(fingerprint, record) of all finished stages; unreadable ones are passed over."""
        for path in sorted((self.root / "stages").glob("??/*/record.json")):
            if len(path.parent.name) == 64:
                with suppress(OSError, ValueError):
                    record = read_json(path)
                    if record.get("fingerprint", path.parent.name) == path.parent.name:
                        yield path.parent.name, record

    def lock(self, name: str, waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Hold the lock of a fingerprint; `waiting` is called once if another process has it."""
        return hold(self.root / "locks" / f"{name}.lock", waiting, self._while_waiting)

    def waiting_text(self, name: str, does: str) -> str:
        """What to tell who waits for that lock: who has it, since when, and what to do where it hangs."""
        return waiting_text(self.root / "locks" / f"{name}.lock", does)


def _checked(folder: Path, fingerprint: str) -> dict[str, Any]:
    """The record of a stored stage whose files are what was stored; ValueError where they are not.

    A file that does not belong to it (no manifest lists it) gets another name, so that nobody takes it for the stage's.
    """
    manifest = read_manifest(folder, [RECORD])
    record = read_json(folder / RECORD)
    for stored in (manifest, record):
        if stored.get("fingerprint", fingerprint) != fingerprint:
            raise Damaged(f"it is stage {str(stored['fingerprint'])[:12]} in the wrong place")
    for path in sorted(folder.iterdir()):
        if path.name not in manifest["files"] and path.name != MANIFEST and not path.name.startswith((".", STRAY)):
            with suppress(OSError):  # of a store that is read-only, `checksums.belongs` leaves it out
                path.rename(path.with_name(f"{STRAY}{path.name}"))
            mended(f"stored stage {fingerprint[:12]}: {path.name} does not belong to it; left out")
    return record


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
