"""How the nodes of one job find each other: files in a folder that all of them see.

    beat           a number that the first node raises while it lives
    call-N.json    ranks of a stage that every node has to start: its work folder, the address of the first rank, their environment
    left-N-K.json  exit codes of the ranks of node K; end-N: they are to end
    over           the job has ended

Ranks themselves talk by torch's process group, and leave failures and results in the work folder of the stage.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_atomic, write_json
from kdrun.nodes import Place, place_of
from kdrun.problems import UserError

FOLDER = ".nodes"
BEAT, POLL = 1.0, 0.2
"""Seconds between two beats, and between two looks."""
SILENT = 60.0
"""Seconds without a beat after which the first node is taken for dead."""
LEFT_OVER = 30.0
"""Seconds after which a job that is over is taken for this one, not for an earlier launch with its name."""
COME = 600.0
"""Seconds that nodes wait for the first one."""
FOREIGN = ("TORCHELASTIC_", "GROUP_", "ROLE_", "SLURM_", "PMI_", "PMIX_")
"""What variables begin with that would tell the ranks of a stage what is true of the command alone."""


def folder_of(place: Place, paths: Mapping[str, str]) -> Path:
    return Path(paths["outputs"]) / FOLDER / place.launch


def rank_environment(given: Mapping[str, str], address: str, port: int, world: int, node: int) -> dict[str, str]:
    """The environment of the ranks of a stage on a node, but for their numbers."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    fixed = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "NODE_RANK": str(node)}
    return {**own, **given, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **fixed}


def start_ranks(work: Path, node: int, count: int, environment: Mapping[str, str], process: Any) -> list[Any]:
    """The processes of the ranks of a node; what they print goes to rankN.log in the work folder of the stage. process: module subprocess."""
    ranks = []
    for local in range(count):
        rank = node * count + local
        with open(work / f"rank{rank}.log", "wb") as file:
            command = [sys.executable, "-P", "-m", "kdrun.learning.workers", str(work), str(rank)]
            own = {"LOCAL_RANK": str(local), "RANK": str(rank)}
            ranks.append(
                process.Popen(
                    command,
                    env={**environment, **own},
                    stdin=subprocess.PIPE,  # its end tells a rank that the parent is gone
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )
    return ranks


def end_ranks(ranks: list[subprocess.Popen]) -> None:
    """No rank outlives the stage: asked to end, then killed after five seconds."""
    alive = [rank for rank in ranks if rank.poll() is None]
    for rank in alive:
        rank.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 5
    for rank in alive:
        try:
            rank.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
    for rank in ranks:
        rank.stdin.close()


@contextlib.contextmanager
def led(hardware: Mapping[str, Any], paths: Mapping[str, str]) -> Iterator[None]:
    """While entered, the other nodes of a job wait for calls of this one, the first; of a job on one node nothing happens."""
    place = place_of(hardware)
    if place is None:
        yield
        return
    folder, done = folder_of(place, paths), threading.Event()
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier launch with this name
    folder.mkdir(parents=True)

    def beat() -> None:
        number = 0
        while not done.wait(BEAT):
            number += 1
            with contextlib.suppress(OSError):
                write_atomic(folder / "beat", f"{os.getpid()} {number}".encode())

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        (folder / "over").touch()
        done.set()
        beating.join()


class Others:
    """The ranks of a stage on the other nodes, as the first one sees them."""

    def __init__(self, place: Place | None, paths: Mapping[str, str]):
        self.place = place
        self.address = "127.0.0.1" if place is None else place.address or socket.gethostname()
        self.folder = None if place is None else folder_of(place, paths)
        self.number = 0

    def call(self, work: Path, port: int, count: int, environment: Mapping[str, str]) -> None:
        if self.folder is not None:
            self.number = len(list(self.folder.glob("call-*.json")))
            told = {"work": str(work.resolve()), "address": self.address, "port": port, "count": count}
            write_json(self.folder / f"call-{self.number}.json", {**told, "environment": dict(environment)})

    def codes(self) -> list[int | None]:
        """Exit codes of their ranks; None of those of a node that is not done."""
        if self.place is None or self.folder is None:
            return []
        paths = [self.folder / f"left-{self.number}-{node}.json" for node in range(1, self.place.count)]
        return [code for path in paths for code in (read_json(path) if path.exists() else [None])]

    def end(self) -> None:
        if self.folder is not None:
            (self.folder / f"end-{self.number}").touch()


def follow(place: Place, paths: Mapping[str, str], process: Any = subprocess) -> int:
    """Start ranks on this node, which is not the first, whenever the first one calls, until its job is over. Returns an exit code.

    Raises UserError where the first node does not come, or beats no more."""
    folder, number = folder_of(place, paths), 0
    beats = _Beats(folder)
    while True:
        alive = beats.alive()
        if alive and (folder / f"call-{number}.json").exists():
            codes = _served(folder, number, place, beats, process)
            write_json(folder / f"left-{number}-{place.rank}.json", codes)
            number += 1
        elif (alive or beats.waited > LEFT_OVER) and (folder / "over").exists():
            return 0
        time.sleep(POLL)


def _served(folder: Path, number: int, place: Place, beats: _Beats, process: Any) -> list[int]:
    """Exit codes of the ranks of one call."""
    call = read_json(folder / f"call-{number}.json")
    world = place.count * call["count"]
    environment = rank_environment(call["environment"], call["address"], call["port"], world, place.rank)
    ranks = start_ranks(Path(call["work"]), place.rank, call["count"], environment, process)
    try:
        while any(rank.poll() is None for rank in ranks):
            beats.alive()
            if (folder / f"end-{number}").exists() or (folder / "over").exists():
                break
            time.sleep(POLL)
        return [-1 if (code := rank.poll()) is None else code for rank in ranks]
    finally:
        end_ranks(ranks)


class _Beats:
    """Whether the first node lives: its beat changes. What an earlier launch left behind does not."""

    def __init__(self, folder: Path):
        self.folder, self.began, self.changed = folder, time.monotonic(), None
        self._last = self._beat()

    def alive(self) -> bool:
        """UserError where it came not, or beats no more."""
        now = time.monotonic()
        if (beat := self._beat()) is not None and beat != self._last:
            self._last, self.changed = beat, now
        if self.changed is None and now - self.began > COME:
            raise UserError(f"the first node of this job did not come within {COME:.0f} seconds: {self.folder}")
        if self.changed is not None and now - self.changed > SILENT and not (self.folder / "over").exists():
            raise UserError(f"the first node of this job has been silent for {SILENT:.0f} seconds: {self.folder}")
        return self.changed is not None

    @property
    def waited(self) -> float:
        return time.monotonic() - self.began

    def _beat(self) -> bytes | None:
        try:
            return (self.folder / "beat").read_bytes()
        except OSError:
            return None
