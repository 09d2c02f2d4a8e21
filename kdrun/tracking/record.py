"""One run: its folder, its record and its lock. `record.json` is the truth; tracker, tables and resume read it.

    RUN/record.json      everything about the run (schema below), rewritten whole at every update
    RUN/config.yaml      the frozen config of the first cell
    RUN/metrics.jsonl    one row per logged step (kdrun.tracking.metrics)
    RUN/run.log          epochs, waits, what was mended, warnings, and the traceback of a failure at its end
    RUN/git.diff         uncommitted changes of the kdrun checkout; user.diff: of the repository the user stands in
    RUN/tracking/        what the W&B mirror has sent;  RUN/wandb/ its offline files
    RUN/.lock            held while a process works on the run

Record, schema 1: id, name, status, created, updated, attempts, command, overrides, choices, job_hash, seeds, config,
cells, git, versions, hardware, stages, audit, summary, error, auto (how student=auto was settled). Times are UTC, ISO 8601 with milliseconds.
Attempts: started, ended, status, pid, and mended where something stored was damaged and made again: [{at, what}].
`cells` is {seed: {top-level key: value}}: only what differs from `config`; `{**config, **cells[seed]}` is the cell.
"""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdrun.environment import hidden
from kdrun.files import read_json, write_json
from kdrun.tracking.metrics import MetricsWriter

SCHEMA = 1
STATUSES = ("planned", "running", "done", "failed", "diverged", "out_of_memory", "pruned", "interrupted")
PLANNED, RUNNING, DONE, FAILED, DIVERGED, OUT_OF_MEMORY, PRUNED, INTERRUPTED = STATUSES
FAILURES = (FAILED, DIVERGED, OUT_OF_MEMORY)
"""Ends that the same command would meet again: run again only when asked to."""
RECORD, LOCK, METRICS, LOG, CONFIG = "record.json", ".lock", "metrics.jsonl", "run.log", "config.yaml"


def now() -> str:
    """`2026-01-31T12:00:00.123Z`"""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def empty_record(identity: str, job_hash: str) -> dict[str, Any]:
    """A record with every key of the schema; None and empty mean "not known (yet)"."""
    moment = now()
    return {
        "schema": SCHEMA,
        "id": identity,
        "name": None,
        "status": PLANNED,
        "created": moment,
        "updated": moment,
        "attempts": [],
        "command": None,
        "overrides": [],
        "choices": {},
        "auto": None,
        "job_hash": job_hash,
        "seeds": [],
        "config": None,
        "cells": {},
        "git": None,
        "versions": {},
        "hardware": {},
        "stages": [],
        "audit": {},
        "summary": {},
        "error": None,
    }


class Run:
    """A run this process works on. Made by `kdrun.tracking.registry.open_run`; holds the lock until `close`.

    As a context manager it ends the run with the status that fits: done, failed (exception) or interrupted.
    """

    def __init__(self, folder: Path, record: dict[str, Any], lock: Any):
        self.dir = folder
        self.record = record
        self._lock = lock
        self._metrics: MetricsWriter | None = None

    @property
    def id(self) -> str:
        """The name of the folder."""
        return self.dir.name

    @property
    def attempt(self) -> int:
        """1 for the first start, one more for every time an unfinished run was continued."""
        return len(self.record["attempts"])

    @property
    def log_path(self) -> Path:
        """Log lines of every attempt, appended."""
        return self.dir / LOG

    @property
    def status(self) -> str:
        return self.record["status"]

    @property
    def metrics(self) -> MetricsWriter:
        """Where this attempt writes its rows. Opened by `begin`, for a planned run must not empty older rows."""
        if self._metrics is None:
            raise RuntimeError(f"run {self.id} has not begun")
        return self._metrics

    def begin(self) -> None:
        """One more attempt, its metrics empty, status running."""
        self._metrics = MetricsWriter(self.dir / METRICS)
        self.record["attempts"].append(
            {"started": now(), "ended": None, "status": RUNNING, "pid": os.getpid(), "host": socket.gethostname()}
        )
        self.update(status=RUNNING, error=None)

    def update(self, **fields: Any) -> None:
        """Replace these top-level fields of the record and write it whole. KeyError for a field the schema lacks."""
        unknown = [name for name in fields if name not in self.record]
        if unknown:
            raise KeyError(f"not a field of the record: {', '.join(unknown)}")
        if fields.get("status", RUNNING) not in STATUSES:
            raise ValueError(f"not a status: {fields['status']}")
        self.record.update(fields, updated=now())
        write_json(self.dir / RECORD, self.record)

    def mended(self, text: str) -> None:
        """Note in the record that something damaged was made again in this attempt: attempts[-1]["mended"]."""
        self.record["attempts"][-1].setdefault("mended", []).append({"at": now(), "what": text})
        self.update()

    def finish(self, status: str = DONE, **fields: Any) -> None:
        """The end of this attempt: metrics are on the disk before the record says so."""
        if self._metrics is not None:
            self._metrics.close()
        moment = now()
        if self.record["attempts"]:
            self.record["attempts"][-1].update(ended=moment, status=status)
        self.update(status=status, **fields)

    def fail(self, error: BaseException, **fields: Any) -> None:
        """The end by an exception, with the status that `status_of` gives it.

        The traceback goes to the end of run.log, its last frame into the record.
        """
        with open(self.log_path, "a", encoding="utf-8") as log:
            log.write(hidden("".join(traceback.format_exception(error))))
        self.finish(status_of(error), error=describe_error(error), **fields)

    def close(self) -> None:
        """Give the lock back. A run that nobody finished is marked interrupted: it did not end well. Twice is fine."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            if self._metrics is not None:
                self._metrics.close()
            if self.status == RUNNING:
                self.finish(INTERRUPTED)
        finally:
            lock.release()

    @contextlib.contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Where the block fails (the disk is full, say) the lock is given back."""
        try:
            yield
        except BaseException:
            lock, self._lock = self._lock, None
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.status == RUNNING:
                if error is None:
                    self.finish(DONE)
                else:
                    self.fail(error)
        finally:
            self.close()


def status_of(error: BaseException) -> str:
    """interrupted for Ctrl-C and exits a signal asked for; diverged for a loss or metric that is not finite; out_of_memory
    for memory of the machine or of a device; failed for anything else. torch's errors are told by name: it may not be here.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return INTERRUPTED
    if isinstance(error, FloatingPointError):
        return DIVERGED
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    if "OutOfMemoryError" in names or isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text):
        return OUT_OF_MEMORY
    return FAILED


def describe_error(error: BaseException) -> dict[str, str]:
    """{"type", "message", "where"}: where is `file.py:line in function` of the frame that raised, without folders; `raised_at` of one that
    comes from another process."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    where = getattr(error, "raised_at", where)
    return {"type": type(error).__name__, "message": hidden(str(error)), "where": where}


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run folder. ValueError naming the file for anything that is not a record of this schema."""
    path = folder / RECORD
    record = read_json(path)
    if not isinstance(record, dict) or "status" not in record:
        raise ValueError(f"{path} is not a run record")
    if record.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {record.get('schema')}, this kdrun reads {SCHEMA}")
    if record["status"] not in STATUSES:
        raise ValueError(f"{path} has the status {record['status']!r}, which this kdrun does not know")
    return record


def log_tail(folder: Path, lines: int = 10, limit: int = 64_000) -> list[str]:
    """The last lines of run.log; [] if there is none. Reads at most `limit` bytes."""
    with contextlib.suppress(OSError), open(folder / LOG, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - limit))
        return file.read().decode(errors="replace").splitlines()[-lines:]
    return []
