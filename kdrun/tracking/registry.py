"""The local registry: run folders `OUTPUTS/runs/<slug>-<hash8>[-N]/`, made, found and listed.

Identity is the hash of the job, never the time: the same command continues the run it left unfinished. A second folder
(`-2`, `-3`) appears when the first is done, or when another process works on it at this moment.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.problems import UserError, listed, nearest
from kdrun.tracking.record import DONE, INTERRUPTED, LOCK, RECORD, RUNNING, Run, empty_record, read_record

RUNS = "runs"
SLUG_LENGTH = 60
HASH_LENGTH = 8
OF_STAGE = {"role", "seed", "fingerprint"}
"""What every stage in a record has."""
REGISTRY_SECONDS = 60.0
"""How long an opener waits for others that are choosing their folder: each needs milliseconds."""

FOLDER = re.compile(rf"(?P<slug>.+)-(?P<hash>[0-9a-f]{{{HASH_LENGTH}}})(?:-(?P<ordinal>[1-9][0-9]*))?")


@dataclass(frozen=True)
class RunInfo:
    """A run as the disk shows it. `record` is None and `problem` says why when the record cannot be read."""

    id: str
    dir: Path
    record: dict[str, Any] | None
    status: str
    problem: str | None = None

    @property
    def created(self) -> str:
        """Sorts by time; a broken record falls back to "" (the end of the list)."""
        return (self.record or {}).get("created") or ""

    def known_record(self) -> dict[str, Any]:
        """The record. UserError where it cannot be read, or lists something else than stages."""
        if self.record is None:
            raise UserError(f"the record of {self.id} cannot be read: {self.problem}")
        stages = self.record.get("stages") or []
        if not isinstance(stages, list) or not all(isinstance(one, dict) and one.keys() >= OF_STAGE for one in stages):
            raise UserError(
                f"the record of {self.id} is damaged: its stages are not a list of entries with {listed(sorted(OF_STAGE))}",
                f"it is {self.dir / RECORD}",
            )
        return self.record


def slugify(text: str) -> str:
    """Short and safe in a file name and a shell: ASCII letters, digits, `_`, `.`, single `-`; at most 60 characters."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", ascii_text)
    return re.sub(r"-{2,}", "-", slug)[:SLUG_LENGTH].strip("-._") or "run"


def runs_folder(outputs: str | os.PathLike[str]) -> Path:
    return Path(outputs) / RUNS


class Busy(Exception):
    """Another process works on this job now, in `folder`."""

    def __init__(self, folder: Path):
        super().__init__(str(folder))
        self.folder = folder


def open_run(
    outputs: str | os.PathLike[str], slug: str, job_hash: str, fresh: bool = False, alone: bool = False
) -> Run:
    """The run of this job, locked by this process, with a new attempt begun and the status running.

    The newest folder of the same hash that is neither done nor locked is continued; otherwise, and with `fresh`, a new
    folder is made. However many processes start at once, each gets a folder of its own; with `alone` there is none for the
    second, but Busy.
    """
    return _open(outputs, slug, job_hash, fresh, begin=True, alone=alone)


def plan_run(outputs: str | os.PathLike[str], slug: str, job_hash: str, alone: bool = False) -> Run:
    """The folder of a job that shall run later (a sweep writes all its configs before the first job starts).

    Status planned, no attempt; `close()` it, and `open_run` with the same hash goes on in it."""
    return _open(outputs, slug, job_hash, fresh=False, begin=False, alone=alone)


def when_free(opening: Callable[[], Run], waiting: Callable[[Path], None]) -> Run | Path:
    """What `opening` gives (open_run or plan_run with `alone`), once no other process works on the job; or the folder of the run
    that the other one finished meanwhile. waiting(folder) is called again and again; it takes its time, and may raise."""
    while True:
        try:
            return opening()
        except Busy as busy:
            while is_locked(busy.folder):
                waiting(busy.folder)
            if read_run(busy.folder).status == DONE:
                return busy.folder


def _open(
    outputs: str | os.PathLike[str], slug: str, job_hash: str, fresh: bool, begin: bool, alone: bool = False
) -> Run:
    runs = runs_folder(outputs)
    runs.mkdir(parents=True, exist_ok=True)
    with _registry_lock(runs):
        same = _folders_of(runs, job_hash[:HASH_LENGTH])
        run = None if fresh else _continue(same, job_hash, alone)
        slug = slugify(slug.removesuffix(f"-{job_hash[:HASH_LENGTH]}"))
        run = run or _create(runs, slug, job_hash, max(same, default=0) + 1)
        if begin:
            with run.released_on_error():
                run.begin()
        return run


def open_folder(folder: Path) -> Run | None:
    """Begin the run that `plan_run` froze in `folder`; None while another process works on it.

    RuntimeError if there is no record in it; a run that is done is returned as it is, not begun.
    """
    with _registry_lock(folder.parent):
        lock = try_lock(folder)
        if lock is None:
            return None
        try:
            record = read_record(folder)
            run = Run(folder, record, lock)
            if record["status"] != DONE:
                _close_attempts(record)
                run.begin()
            return run
        except BaseException:
            lock.release()
            raise


def end_run(folder: Path, status: str, error: dict[str, str] | None = None) -> None:
    """Write how a run ended whose process could not do it (killed, pruned). Nothing happens while one works on it."""
    with _registry_lock(folder.parent):
        lock = try_lock(folder)
        if lock is None:
            return
        run = Run(folder, read_record(folder), lock)
        try:
            if run.status != DONE:
                run.finish(status, error=error)
        finally:
            run.close()


def run_of_job(outputs: str | os.PathLike[str], job_hash: str) -> RunInfo | None:
    """The run that speaks for a job: the newest that is done, else the newest of all; None if it never had a folder."""
    runs = runs_folder(outputs)
    same = _folders_of(runs, job_hash[:HASH_LENGTH]) if runs.is_dir() else {}
    found = [read_run(same[ordinal]) for ordinal in sorted(same, reverse=True)]
    found = [info for info in found if info.record and info.record["job_hash"] == job_hash]
    return next((info for info in found if info.status == DONE), found[0] if found else None)


def finished_run(outputs: str | os.PathLike[str], job_hash: str) -> RunInfo | None:
    """The newest run of this job that is done, if any: how a repeated sweep knows which jobs are left."""
    found = run_of_job(outputs, job_hash)
    return found if found is not None and found.status == DONE else None


def _folders_of(runs: Path, short_hash: str) -> dict[int, Path]:
    """ordinal -> folder, whatever the slug: renaming a run must not make its unfinished work unreachable."""
    found = {}
    for name in os.listdir(runs):
        match = FOLDER.fullmatch(name)
        if match and match["hash"] == short_hash:
            found[int(match["ordinal"] or 1)] = runs / name
    return found


def _continue(same: dict[int, Path], job_hash: str, alone: bool) -> Run | None:
    for ordinal in sorted(same, reverse=True):
        folder = same[ordinal]
        lock = try_lock(folder)
        if lock is None:
            if alone and _record_to_continue(folder, job_hash) is not None:
                raise Busy(folder)
            continue
        try:
            record = _record_to_continue(folder, job_hash)
            if record is not None:
                return Run(folder, record, lock)
        except BaseException:
            lock.release()
            raise
        lock.release()
    return None


def _record_to_continue(folder: Path, job_hash: str) -> dict[str, Any] | None:
    """None if this folder is finished, belongs to another job with the same short hash, or is damaged."""
    try:
        record = read_record(folder)
    except FileNotFoundError:
        # Killed between making the folder and writing the record: nothing in it is worth keeping.
        return empty_record(folder.name, job_hash)
    except (ValueError, OSError):
        return None
    if record["job_hash"] != job_hash or record["status"] == DONE:
        return None
    _close_attempts(record)
    return record


def _close_attempts(record: dict[str, Any]) -> None:
    for attempt in record["attempts"]:
        if attempt["status"] == RUNNING:  # its process is gone, or the lock would not have been free
            attempt["status"] = INTERRUPTED


def _create(runs: Path, slug: str, job_hash: str, ordinal: int) -> Run:
    while True:
        name = f"{slug}-{job_hash[:HASH_LENGTH]}" + (f"-{ordinal}" if ordinal > 1 else "")
        folder = runs / name
        try:
            folder.mkdir()
            break
        except FileExistsError:
            ordinal += 1
    lock = try_lock(folder)
    if lock is None:
        raise RuntimeError(f"{folder} was just made here, yet another process holds its lock")
    run = Run(folder, empty_record(name, job_hash), lock)
    with run.released_on_error():
        run.update()
    return run


def try_lock(folder: Path) -> Any | None:
    """The lock of a run folder, or None while another process (or another Run of this one) holds it."""
    import filelock

    lock = filelock.FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    return lock


@contextlib.contextmanager
def _registry_lock(runs: Path, seconds: float = REGISTRY_SECONDS) -> Iterator[None]:
    """Held while folders are chosen or probed, so that nobody takes a short probe for a working process."""
    import filelock

    lock = filelock.FileLock(runs / LOCK, thread_local=False, poll_interval=0.01)
    try:
        held = lock.acquire(timeout=seconds)
    except filelock.Timeout:
        raise RuntimeError(f"{runs / LOCK} has been held by another process for {seconds:.0f} s") from None
    with held:
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process works on this run now. False where the lock cannot be opened (a read-only copy)."""
    try:
        with _registry_lock(folder.parent, seconds=5.0):
            lock = try_lock(folder)
    except (OSError, RuntimeError):
        return False
    if lock is None:
        return True
    lock.release()
    return False


def read_run(folder: Path) -> RunInfo:
    """The run in `folder`. Its record says running while its lock is free: the process was killed, so interrupted."""
    try:
        record = read_record(folder)
    except FileNotFoundError:
        return RunInfo(folder.name, folder, None, "broken", f"{folder.name} has no {RECORD}")
    except (ValueError, OSError) as error:
        return RunInfo(folder.name, folder, None, "broken", str(error))
    status = record["status"]
    if status == RUNNING and not is_locked(folder):
        status = INTERRUPTED
    return RunInfo(folder.name, folder, record, status)


def list_runs(outputs: str | os.PathLike[str]) -> list[RunInfo]:
    """All runs, newest first; those with a broken record at the end, with their problem."""
    try:
        names = sorted(entry.name for entry in os.scandir(runs_folder(outputs)) if entry.is_dir())
    except FileNotFoundError:
        return []
    runs = [read_run(runs_folder(outputs) / name) for name in names]
    return sorted(runs, key=lambda run: run.created, reverse=True)


def find_run(outputs: str | os.PathLike[str], text: str) -> RunInfo:
    """The run meant by `text`: an id, the path of a run folder, a unique beginning of an id, a beginning of a job hash
    (at least four characters; the newest of that hash), or `last`, the newest that got as far as a stage where there is one.
    UserError naming the near ones otherwise."""
    folder = Path(text)
    if len(folder.parts) > 1 and (folder / RECORD).is_file():
        return read_run(folder)
    runs = list_runs(outputs)
    if not runs:
        raise UserError(f"no runs in {runs_folder(outputs)}", "another folder: --outputs DIR")
    if text == "last":
        return next((run for run in runs if not _came_to_nothing(run.record or {})), runs[0])
    for run in runs:
        if run.id == text:
            return run
    if len(text) >= 4 and (by_hash := [run for run in runs if (run.record or {}).get("job_hash", "").startswith(text)]):
        if len({(run.record or {})["job_hash"] for run in by_hash}) == 1:
            return by_hash[0]
        raise _ambiguous(text, by_hash)
    matches = [run for run in runs if text and run.id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise _ambiguous(text, matches)
    # A name is compared with and without its hash, which would drown a typo in eight right letters or wrong ones.
    names = {run.id.rpartition("-")[0]: run.id for run in reversed(runs)} | {run.id: run.id for run in runs}
    guess = names.get(nearest(text, names) or "")
    closest = f"; closest: {guess}" if guess else ""
    raise UserError(f"no run '{text}' in {runs_folder(outputs)}{closest}", "all: kdrun runs")


def _came_to_nothing(record: Mapping[str, Any]) -> bool:
    """Whether a run was refused for a mistake in what was typed, before anything was trained."""
    return (record.get("error") or {}).get("type") == "UserError" and not record.get("stages")


def _ambiguous(text: str, runs: list[RunInfo]) -> UserError:
    names = [run.id for run in runs]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return UserError(f"'{text}' could be {len(names)} runs: {shown}", "type more of the name")
