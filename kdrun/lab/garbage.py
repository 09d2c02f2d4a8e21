"""What in a store no run refers to, found by mark and sweep, and deleted so that a store is whole at every moment.

Marked is what the records of an outputs folder list, whatever became of those runs, and what these stages started from
or were taught by. A stage appears in the record of a run before its lock is given back, so that whoever holds the lock
and reads the records again knows whether the stage is needed. Deleting is a rename out of the way, then the removal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kdrun.checksums import damage
from kdrun.files import read_json
from kdrun.lab.store import Store
from kdrun.problems import UserError
from kdrun.tracking.record import INTERRUPTED, METRICS, PLANNED, RECORD, RUNNING, read_record
from kdrun.tracking.registry import runs_folder

ACTIVE = (PLANNED, RUNNING, INTERRUPTED)
"""Runs that go on: which stages they will need is not known from outside."""
QUIET_SECONDS = 86400.0
"""Unfinished work that was touched later than this is left alone even if no run seems to own it."""
SLACK_SECONDS = 60.0
TRASH = "trash"


@dataclass(frozen=True)
class Garbage:
    """Something to delete. size in bytes; age in seconds since it was last written to.

    kind         stage, outputs, unfinished, damaged or leftover
    lock         name of the lock to hold; None where nobody else may touch it
    fingerprint  of the stage (outputs: of the teacher) that a run may come to need; None = nobody can
    """

    kind: str
    name: str
    path: Path
    size: int
    age: float
    why: str
    lock: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class _Mention:
    """What one run record says about the store. span: from when to when the run was at work, in seconds since 1970."""

    active: bool
    fingerprints: frozenset[str]
    span: tuple[float, float]
    store: Path | None


class References:
    """What the runs of an outputs folder refer to. `read` may be called often: unchanged records are not read again."""

    def __init__(self, outputs: Path):
        self.outputs = outputs
        self.store = Store(outputs / "store")
        self._mentions: dict[str, tuple[tuple[int, ...], _Mention]] = {}
        self._parents: dict[str, set[str]] = {}
        self.fingerprints: set[str] = set()
        self.read()

    def read(self) -> None:
        """Raises UserError naming every run whose record cannot be read: what it refers to is not known."""
        mentions, problems = {}, []
        runs = runs_folder(self.outputs)
        for folder in sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []:
            try:
                status = (folder / RECORD).stat()
                state = (status.st_mtime_ns, status.st_size, status.st_ino)
                known = self._mentions.get(folder.name)
                mentions[folder.name] = known if known and known[0] == state else (state, _mention(folder))
            except FileNotFoundError:
                if _has_content(folder):  # else made a moment ago, or killed at its very start
                    problems.append(f"{folder.name} has no {RECORD}")
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{folder.name}: {error}")
        if problems:
            raise UserError(
                "nothing was deleted: what these runs refer to is not known", *problems, "mend them or remove them"
            )
        self._mentions = mentions
        self.fingerprints = self._with_parents({name for _, one in mentions.values() for name in one.fingerprints})

    def _with_parents(self, fingerprints: set[str]) -> set[str]:
        found, todo = set(), list(fingerprints)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self._parents_of(name)
        return found

    def _parents_of(self, fingerprint: str) -> set[str]:
        """The stages that a stored stage started from, was taught by or is made of."""
        if fingerprint not in self._parents:
            try:
                parts = read_json(self.store.folder(fingerprint) / "record.json")["parts"]
            except (OSError, ValueError, KeyError):
                return set()  # a run lists all of its stages, so that nothing hangs on this
            teacher = (parts.get("teacher") or {}).get("fingerprint")
            members = (parts.get("members") or {}).values()
            generated = (parts.get("data") or {}).get("generated")
            measured = (parts.get("importance"), parts.get("before"))
            made_of = (parts.get("start"), teacher, generated, *measured, *members)
            self._parents[fingerprint] = {name for name in made_of if isinstance(name, str)}
        return self._parents[fingerprint]

    @property
    def runs(self) -> int:
        return len(self._mentions)

    @property
    def active(self) -> list[str]:
        """Runs that are planned, running or interrupted."""
        return [name for name, (_, one) in self._mentions.items() if one.active]

    @property
    def other_stores(self) -> list[str]:
        """Stores that runs of this folder used and that are not the one inside it."""
        stores = {one.store for _, one in self._mentions.values() if one.store}
        return sorted(str(store) for store in stores if store.resolve() != self.store.root.resolve())

    def holds(self, fingerprint: str) -> bool:
        """Whether a stage is referred to, or was made while a run was at work that has not ended: when such a run goes
        on, its record lists only the stages that it has come to again."""
        if fingerprint in self.fingerprints:
            return True
        with contextlib.suppress(FileNotFoundError):
            made = (self.store.folder(fingerprint) / "manifest.json").stat().st_mtime
            spans = [one.span for _, one in self._mentions.values() if one.active]
            return any(start <= made <= end for start, end in spans)
        return False


def _has_content(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return any(not path.name.startswith(".") for path in folder.iterdir())
    return False


def _mention(folder: Path) -> _Mention:
    record = read_record(folder)
    stages = record["stages"]
    teachers = {(stage.get("teacher") or {}).get("fingerprint") for stage in stages}
    ended = (folder / RECORD).stat().st_mtime
    with contextlib.suppress(FileNotFoundError):
        ended = max(ended, (folder / METRICS).stat().st_mtime)  # written to until the process dies
    return _Mention(
        record["status"] in ACTIVE,
        frozenset({stage["fingerprint"] for stage in stages} | teachers - {None}),
        (datetime.fromisoformat(record["created"]).timestamp(), ended + SLACK_SECONDS),
        _store_of(record, folder.parent.parent),
    )


def _store_of(record: dict[str, Any], outputs: Path) -> Path | None:
    """The store of a run; one inside its outputs folder moved with that folder."""
    paths = (record["config"] or {}).get("paths")
    if not paths:
        return None
    store = Path(paths["store"])
    return outputs / store.relative_to(paths["outputs"]) if store.is_relative_to(paths["outputs"]) else store


def find(references: References) -> list[Garbage]:
    """Everything in the store that can go, by kind and name. Nothing is changed."""
    root = references.store.root
    found = [*_stages(references), *_outputs(references), *_unfinished(references), *_leftovers(root)]
    return [*found, *_damaged(references, {item.path for item in found})]


def _stages(references: References) -> Iterator[Garbage]:
    for folder in sorted(references.store.root.glob("stages/??/*")):
        fingerprint, _, ending = folder.name.partition(".")
        if ending.startswith("damaged-"):
            name = f"stage {fingerprint[:12]}"
            yield _item("damaged", name, folder, "its files had changed; it was moved aside", fingerprint)
        elif ending.startswith("replaced-") and (
            references.store.has(fingerprint) or not references.holds(fingerprint)
        ):
            yield _item("leftover", f"stage {fingerprint[:12]}", folder, "another took its place", fingerprint)
        elif not ending and not references.holds(fingerprint):
            yield _item("stage", _described(folder), folder, "no run refers to it", fingerprint, fingerprint)


def _described(folder: Path) -> str:
    try:
        record = read_json(folder / "record.json")
        return f"{record['role']} {record['learner']}, seed {record['seed']} ({folder.name[:12]})"
    except (OSError, ValueError, KeyError):
        return f"stage {folder.name[:12]}"


def _outputs(references: References) -> Iterator[Garbage]:
    for folder in sorted(references.store.root.glob("outputs/*")):
        lock, name = f"outputs-{folder.name}", f"teacher outputs {folder.name[:12]}"
        try:
            teacher = read_json(folder / "manifest.json")["parts"]["teacher"]
        except (OSError, ValueError, KeyError):  # not finished: whose they are is written last
            if _abandoned(references, folder, lock):
                yield _item("unfinished", name, folder, "their making was not completed", lock)
            continue
        if not references.holds(teacher):
            yield _item("outputs", name, folder, f"no run refers to the teacher {teacher[:12]}", lock, teacher)


def _unfinished(references: References) -> Iterator[Garbage]:
    for folder in sorted(references.store.root.glob("unfinished/*")):
        if _abandoned(references, folder, folder.name):
            yield _item("unfinished", f"stage {folder.name[:12]}", folder, "no run will continue it", folder.name)


def _damaged(references: References, known: set[Path]) -> Iterator[Garbage]:
    """What would be found damaged, and made again, when somebody wanted it."""
    root = references.store.root
    for pattern, lock in (("stages/??/*", "{}"), ("outputs/*", "outputs-{}"), ("unfinished/*", "{}")):
        for folder in sorted(root.glob(pattern)):
            if folder in known or "." in folder.name or not (why := damage(folder)):
                continue
            with try_lock(root, name := lock.format(folder.name)) as held:
                if held:
                    text = f"{pattern.partition('/')[0].rstrip('s')} {folder.name[:12]}"
                    yield _item(
                        "damaged", text, folder, f"{_within(why, root)}; it is made again when it is wanted", name
                    )


def _within(text: str, root: Path) -> str:
    return text.replace(f"{root}/", "")


def _abandoned(references: References, folder: Path, lock: str) -> bool:
    if references.active or age_of(folder) < QUIET_SECONDS:
        return False
    with try_lock(references.store.root, lock) as held:
        return held


def _leftovers(root: Path) -> Iterator[Garbage]:
    for path in sorted((root / TRASH).glob("*")):
        yield _item("leftover", path.name[:12], path, "an earlier deletion was cut short", None)


def _item(kind: str, name: str, path: Path, why: str, lock: str | None, fingerprint: str | None = None) -> Garbage:
    return Garbage(kind, name, path, size_of(path), age_of(path), why, lock, fingerprint)


def delete(items: Sequence[Garbage], references: References) -> Iterator[tuple[Garbage, str | None]]:
    """Delete one after the other; yields each with None, or with the reason why it is still there."""
    trash = references.store.root / TRASH
    for item in items:
        with try_lock(references.store.root, item.lock) as held:
            if not held:
                yield item, "another process uses it"
                continue
            references.read()
            if (
                references.holds(item.fingerprint)
                if item.fingerprint
                else item.kind == "unfinished" and references.active
            ):
                yield item, "by now a run may need it"
                continue
            moved = item.path
            try:
                if item.path.parent != trash:
                    trash.mkdir(exist_ok=True)
                    moved = item.path.rename(trash / f"{item.path.name}.{time.time_ns()}")
            except OSError as error:
                yield item, error.strerror or str(error)
                continue
        try:
            shutil.rmtree(moved)
        except OSError as error:
            yield item, error.strerror or str(error)
            continue
        yield item, None


@contextlib.contextmanager
def try_lock(root: Path, name: str | None) -> Iterator[bool]:
    """Hold the lock of a stage or cache of this store if nobody else does; False, at once, if somebody does."""
    if name is None:
        yield True
        return
    from filelock import FileLock, Timeout

    (root / "locks").mkdir(exist_ok=True)
    lock = FileLock(root / "locks" / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def files_of(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All files below a folder; what vanishes meanwhile is passed over."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_of(Path(entry.path))
            else:
                yield entry


def size_of(folder: Path) -> int:
    """Bytes in all files below."""
    return sum(status.st_size for status in _statuses(folder))


def age_of(folder: Path) -> float:
    """Seconds since anything below was last written to."""
    newest = max((status.st_mtime for status in _statuses(folder)), default=None)
    with contextlib.suppress(FileNotFoundError):
        newest = folder.stat().st_mtime if newest is None else newest
    return 0.0 if newest is None else max(0.0, time.time() - newest)


def _statuses(folder: Path) -> Iterator[os.stat_result]:
    for entry in files_of(folder):
        with contextlib.suppress(FileNotFoundError):
            yield entry.stat(follow_symlinks=False)
