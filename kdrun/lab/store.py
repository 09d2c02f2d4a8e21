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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdrun.files import read_json, sha256_file, write_json


class DamagedStage(RuntimeError):
    """A stored file does not have the checksum it was stored with."""


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

    def has(self, fingerprint: str) -> bool:
        return (self.folder(fingerprint) / "manifest.json").is_file()

    def unfinished(self, fingerprint: str) -> bool:
        """Whether an earlier try left a checkpoint to go on from."""
        folder = self.root / "unfinished" / fingerprint
        return (folder / "checkpoint.pt").is_file() or (folder / "federation" / "state.json").is_file()

    def get(self, fingerprint: str) -> dict[str, Any] | None:
        """The record of a finished stage, its files verified; None if it is not there.

        A stage whose files were damaged is moved aside (never deleted) and reported by DamagedStage.
        """
        folder = self.folder(fingerprint)
        if not self.has(fingerprint):
            return None
        try:
            files = read_json(folder / "manifest.json")["files"]
            wrong = [name for name, digest in files.items() if _digest(folder / name) != digest]
        except (ValueError, KeyError, TypeError) as error:
            wrong = [f"manifest.json ({error})"]
        if wrong:
            aside = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
            folder.rename(aside)
            raise DamagedStage(
                f"stored stage {fingerprint[:12]}: wrong content in {', '.join(wrong)}; moved to {aside}"
            )
        return read_json(folder / "record.json")

    def put(self, fingerprint: str, files: list[Path], record: dict[str, Any]) -> Path:
        """Move the finished `files` of a work folder into the store, with their record; return the stage's folder."""
        final = self.folder(fingerprint)
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = self.work(fingerprint) / "finished"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for path in files:
            path.replace(staging / path.name)
        write_json(staging / "record.json", record)
        write_json(staging / "manifest.json", {"files": {p.name: sha256_file(p) for p in sorted(staging.iterdir())}})
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
                try:
                    yield path.parent.name, read_json(path)
                except (OSError, ValueError):
                    continue

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock of a fingerprint; `waiting` is called once if another process has it."""
        from filelock import FileLock, Timeout

        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                waiting()
            while not lock.is_locked:
                self._while_waiting()
                with suppress(Timeout):
                    lock.acquire(timeout=0.5, poll_interval=0.05)
        try:
            yield
        finally:
            lock.release()


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
