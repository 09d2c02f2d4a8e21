"""Faults to put into a small job: damage to any file that it left, and disks that refuse a write.

A `Scene` is a job at a point of its life (interrupted, done) with what it then had on disk. Damage is drawn by a seed from all files of
the scene, so that new kinds of files are covered by themselves.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from kdrun.cli import main
from kdrun.files import read_json
from kdrun.job.progress import RunReport
from kdrun.networks import weights
from kdrun.tracking.metrics import read_metrics

SMALL = ("seed=0", "data.limit.train=150", "hardware=cpu", "hardware.threads=1", "tracker=none", "card=false", "energy.reader=none",
         "trainer.checkpoint_seconds=0", "trainer.batch_size=50")  # fmt: skip
DISTIL = (
    "teacher=mlp_16",
    "student=mlp_8",
    "trainer.epochs=2",
    "teacher.trainer.epochs=3",
    "strategy.controls=[]",
    *SMALL,
)
ALONE = ("strategy=alone", "student=mlp_8", "trainer.epochs=1", "strategy.controls=[]", *SMALL)
FEDERATED = (
    "strategy=federated",
    "strategy.clients=2",
    "strategy.rounds=2",
    "student=mlp_8",
    "strategy.controls=[]",
    *SMALL,
)
NUMBERS = ("val", "test", "history", "first_step", "parameters")
"""Of a stage's record: what has to be equal. The cost of two runs never is."""
NOT_READ = re.compile(r"\.lock$|\.holder$|run\.log$|\.diff$")


@dataclass
class Scene:
    """A job, its outputs folder as it lies on the disk, and the numbers that it gives when nothing disturbs it."""

    words: tuple[str, ...]
    folder: Path
    numbers: dict[str, Any]


def numbers(outputs: Path) -> dict[str, Any]:
    """What every stage of the newest finished run gave: figures of its record, and sha256 of its files."""
    runs = [read_json(path) for path in outputs.glob("runs/*/record.json") if _readable(path)]
    record = max((run for run in runs if run.get("status") == "done"), key=lambda run: run["updated"])
    found = {}
    for stage in record["stages"]:
        folder = outputs / "store" / "stages" / stage["fingerprint"][:2] / stage["fingerprint"]
        kept = {name: value for name, value in read_json(folder / "record.json").items() if name in NUMBERS}
        listed = {stage["label"]: {name: stage[name] for name in ("val", "test")}}
        files = json.loads((folder / "manifest.json").read_text())["files"]
        found[stage["label"]] = [
            kept,
            listed,
            {name: digest for name, digest in files.items() if name != "record.json"},
        ]
    arms = {name: {which: arm[which] for which in ("best", "last")} for name, arm in record["summary"]["arms"].items()}
    rows = [
        row
        for run in outputs.glob("runs/*/metrics.jsonl")
        if run.parent.name == record["id"]
        for row in read_metrics(run)
    ]
    return {"stages": found, "arms": arms, "rows": rows}


def _readable(path: Path) -> bool:
    try:
        return isinstance(read_json(path), dict)
    except ValueError:
        return False


def run(words: tuple[str, ...], folder: Path) -> int:
    """The exit code of `kdrun` in this process, with its outputs in `folder`."""
    return main(["-q", *words, f"paths.outputs={folder}"])


def interrupted(words: tuple[str, ...], folder: Path, after: int) -> None:
    """The same, stopped as by Ctrl-C the so-manieth time that it looks for a signal."""
    asked = 0

    def stop(report: Any) -> bool:
        nonlocal asked
        asked += 1
        return asked >= after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunReport, "stop_requested", stop)
        assert run(words, folder) == 130


# damage


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    _replace(path, bytes(content))


def _cut(path: Path, draw: random.Random) -> None:
    _replace(path, path.read_bytes()[: draw.choice([0, draw.randrange(max(1, path.stat().st_size))])])


def _zeros(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = draw.randrange(max(1, len(content)))
    content[start : start + 64] = bytes(len(content[start : start + 64]))
    _replace(path, bytes(content))


def _other(path: Path, draw: random.Random) -> None:
    _replace(path, draw.choice([b"[1]", b"{}", b'{"files": {}}', b"null", b"\x00" * 8]))


def _delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def _swap(path: Path, draw: random.Random) -> None:
    """With a file of its kind, or its folder with one of its kind."""
    root = next(parent for parent in path.parents if parent.name == "outputs" and (parent / "runs").is_dir())
    other = draw.choice(sorted(one for one in root.rglob(f"*{path.suffix}") if one.is_file() and one != path) or [path])
    if draw.random() < 0.5 and other.name == path.name and other.parent != path.parent:
        path, other = path.parent, other.parent
    if path == other or path in other.parents or other in path.parents:
        return
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


DAMAGE: tuple[Callable[[Path, random.Random], None], ...] = (_flip, _flip, _cut, _zeros, _other, _delete, _swap)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # what lies there may be linked from elsewhere
    path.write_bytes(content)


def damage(outputs: Path, seed: int) -> str:
    """Damage one file below `outputs`; returns what was done. Drawn are the part of the folder (runs, stages, states, caches), then the
    kind of file (its name without numbers), then the file."""
    draw = random.Random(seed)
    parts: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(outputs.rglob("*")):
        if path.is_file() and not NOT_READ.search(path.name):
            names = path.relative_to(outputs).parts
            part = names[0] if names[0] == "runs" else "/".join(names[:2])
            parts.setdefault(part, {}).setdefault(re.sub(r"[0-9a-f]{8,}|\d+", "", path.name), []).append(path)
    kinds = parts[draw.choice(sorted(parts))]
    path = draw.choice(kinds[draw.choice(sorted(kinds))])
    how = draw.choice(DAMAGE)
    how(path, draw)
    return f"seed {seed}: {how.__name__} {path.relative_to(outputs)}"


def unlike(outputs: Path, before: dict[Path, Any]) -> list[Path]:
    """JSON files that are read otherwise than `before` (as `readings` gave it), without a word. A log of rows may have been cut at
    its end, as by a kill: what is read of it must be what it said."""
    found = []
    for path, value in readings(outputs).items():
        known = before.get(path)
        if isinstance(value, list) and isinstance(known, list) and path.suffix == ".jsonl":
            known = known[: len(value)]
        if None not in (value, known) and known != value:
            found.append(path)
    return found


def readings(outputs: Path) -> dict[Path, Any]:
    """What every JSON file of the run folders says; None where it cannot be read."""
    found: dict[Path, Any] = {}
    for path in outputs.glob("runs/**/*.json*"):
        try:
            found[path.relative_to(outputs)] = read_json(path) if path.suffix == ".json" else list(read_metrics(path))
        except (OSError, ValueError):
            found[path.relative_to(outputs)] = None
    return found


# disks


class Disk:
    """While entered, the n-th write below `folder` fails with `number` (an errno) and so does every later one.

    Writes: making a file, a folder or a link, a call of write(), taking room; and where the disk is read-only, renaming and deleting.
    count: how many there were. limit: None = none fails.
    """

    def __init__(self, folder: Path, number: int = errno.ENOSPC, limit: int | None = None):
        self.folder, self.number, self.limit, self.count = os.fspath(folder), number, limit, 0

    def write(self, path: Any) -> None:
        if isinstance(path, int) or not os.path.abspath(os.fspath(path)).startswith(self.folder):
            return
        self.count += 1
        if self.limit is not None and self.count >= self.limit:
            raise OSError(self.number, os.strerror(self.number), os.fspath(path))

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Disk]:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((builtins, "open"), (io, "open")):
                patch.setattr(module, name, self._open(getattr(module, name)))
            patch.setattr(os, "open", self._os_open(os.open))
            names = ["mkdir", "link"] + (["replace", "rename", "unlink", "rmdir"] if self.number == errno.EROFS else [])
            for name in names:
                patch.setattr(os, name, self._before(getattr(os, name)))
            patch.setattr(os, "posix_fallocate", self._fallocate(os.posix_fallocate))
            patch.setattr(weights, "save_file", self._safetensors(weights.save_file))
            yield self

    def _before(self, real: Callable) -> Callable:
        def call(path, *arguments, **options):
            self.write(path)
            return real(path, *arguments, **options)

        return call

    def _open(self, real: Callable) -> Callable:
        def call(file, mode="r", *arguments, **options):
            if not set(mode) & set("wxa+"):
                return real(file, mode, *arguments, **options)
            self.write(file)
            opened = real(file, mode, *arguments, **options)
            inside = not isinstance(file, int) and os.path.abspath(os.fspath(file)).startswith(self.folder)
            return _Refusing(opened, self, file) if inside else opened

        return call

    def _os_open(self, real: Callable) -> Callable:
        def call(path, flags, *arguments, **options):
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                self.write(path)
            return real(path, flags, *arguments, **options)

        return call

    def _fallocate(self, real: Callable) -> Callable:
        def call(descriptor, *arguments):
            self.write(os.readlink(f"/proc/self/fd/{descriptor}"))
            return real(descriptor, *arguments)

        return call

    def _safetensors(self, real: Callable) -> Callable:
        def call(tensors, path, *arguments):
            try:
                self.write(path)
            except OSError as error:
                raise SafetensorError(f"Error while serializing: I/O error (os error {error.errno})") from error
            return real(tensors, path, *arguments)

        return call


class _Refusing:
    """An open file whose writes are counted; the part before the last one that fits is written."""

    def __init__(self, file: Any, disk: Disk, path: Any):
        self._file, self._disk, self._path = file, disk, path

    def write(self, data: Any) -> int:
        try:
            self._disk.write(self._path)
        except OSError as error:
            raise OSError(error.errno, error.strerror) from None  # as from a real file: without its name
        return self._file.write(data)

    def __enter__(self) -> _Refusing:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def copied(folder: Path, to: Path) -> Path:
    """A scene's folder in another place, under the name `outputs`; hard links stay apart."""
    target = to / "outputs"
    shutil.copytree(folder, target)
    return target
