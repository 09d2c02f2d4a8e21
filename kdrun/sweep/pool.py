"""The sweep's side of the fork server: jobs in, events out, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdrun.config.allowed import targets_in
from kdrun.environment import READABLE
from kdrun.ledger.machine import visible_gpus
from kdrun.slots import ENVIRONMENT
from kdrun.tracking.mirror import mirror_environment
from kdrun.tracking.record import FAILED, INTERRUPTED, OUT_OF_MEMORY, RUNNING, read_record
from kdrun.tracking.registry import end_run, read_run

GRACE_SECONDS = 30.0
"""How long jobs that were asked to stop may take to save their state before they are killed."""


class Pool:
    """Runs frozen jobs, `jobs` at a time, each in a process forked from a server that has everything imported.

    jobs     processes at a time; each gets an equal share of the cores as threads, and a GPU of its own where there are several
    preload  further modules worth importing once, as those of the jobs' targets

    The server begins to import at once, so a pool is best made before the jobs are planned. Leaving the block stops what
    still runs (its state is saved) and returns when no process is left.
    """

    def __init__(self, jobs: int = 1, preload: Sequence[str] = ()):
        self.jobs = jobs
        self._waiting: deque[dict[str, Any]] = deque()
        self._running: dict[int, dict[str, Any]] = {}
        self._buffer = b""
        self._kills = oom_kills()
        self._gpus = visible_gpus() if jobs > 1 else []
        self.threads = max(1, cores() // jobs)
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "kdrun.sweep.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C comes to us alone
            env=_environment(self.threads),
        )
        self.preload(preload)

    def preload(self, modules: Sequence[str]) -> None:
        """Import further modules in the server, before the jobs that are submitted from now on."""
        self._tell({"path": [os.path.abspath(path) for path in sys.path], "preload": list(modules)})

    @property
    def busy(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, number: int, folder: Path, force: bool = False) -> None:
        """Queue the job that lies frozen in `folder`; it starts when a slot is free."""
        self._waiting.append(
            {"run": number, "folder": os.path.abspath(folder), "force": force, "threads": self.threads}
        )
        self._fill()

    def cancel(self) -> None:
        """Forget what has not been started."""
        self._waiting.clear()

    def stop(self, number: int | None = None, kill: bool = False) -> None:
        """Ask one job, or all, to save their state and stop; or end them at once."""
        for job in [number] if number is not None else list(self._running):
            self._tell({"stop": job, "signal": signal.SIGKILL if kill else signal.SIGTERM})

    def events(self, timeout: float = 0.5) -> Iterator[dict[str, Any]]:
        """What happened, waiting up to `timeout` seconds for the first of it. "end" events carry the record's status."""
        for event in self._read(timeout):
            if event["kind"] == "end":
                request = self._running.pop(event["number"])
                event["status"], event["error"] = self._ended(Path(request["folder"]), event["code"])
                self._fill()
            yield event

    def _ended(self, folder: Path, code: int) -> tuple[str, dict[str, Any] | None]:
        """(status, error) of a job whose process is gone; one that could not write its end gets it written here."""
        if read_record(folder)["status"] == RUNNING or code < 0:
            kills, self._kills = self._kills, oom_kills()
            record_death(folder, code, self._kills > kills)
        info = read_run(folder)
        return info.status, (info.record or {}).get("error")

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.jobs:
            request = self._waiting.popleft()
            request["environment"] = {name: os.environ.get(name, "") for name in (ENVIRONMENT, READABLE)}
            if len(self._gpus) > 1:
                used = [job["gpu"] for job in self._running.values()]
                request["gpu"] = min(self._gpus, key=used.count)
                request["environment"]["CUDA_VISIBLE_DEVICES"] = request["gpu"]
            self._running[request["run"]] = request
            self._tell(request)

    def _tell(self, request: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the server's end shows as the end of its events
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()

    def _read(self, timeout: float) -> list[dict[str, Any]]:
        assert self._server.stdout is not None
        file = self._server.stdout.fileno()
        ready, _, _ = select.select([file], [], [], timeout)
        if not ready:
            return []
        data = os.read(file, 1 << 16)
        if not data:  # the server is gone, and its children with it
            code = self._server.wait()
            return [{"number": number, "kind": "end", "code": code or 1} for number in list(self._running)]
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()
        if not self._running:
            self._server.kill()  # it may still be importing
        self.stop()
        end = time.monotonic() + GRACE_SECONDS
        while self._running and time.monotonic() < end and self._server.poll() is None:
            for _ in self.events(0.2):
                pass
        self.stop(kill=True)
        with contextlib.suppress(OSError):
            self._server.stdin.close()  # type: ignore[union-attr]
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server.stdout.close()  # type: ignore[union-attr]


def record_death(run: Path, code: int, memory: bool) -> None:
    """Write how a job ended that could not write it itself. A crash would come again; a kill from outside would not.

    code: as of subprocess, negative for a signal; memory: whether the system killed processes for want of it meanwhile.
    """
    memory = memory and code == -signal.SIGKILL
    crashed = code in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)
    status = OUT_OF_MEMORY if memory else FAILED if crashed or code > 0 else INTERRUPTED
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    text = f"its process ended by {name}" + (": the system's memory ran out" if memory else "")
    end_run(run, status, {"type": "Killed" if code < 0 else "Exit", "message": text, "where": ""})


def _environment(threads: int) -> dict[str, str]:
    count = str(threads)
    return mirror_environment() | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def oom_kills() -> int:
    """How often the system has killed a process for want of memory; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def targets_of(configs: Iterable[dict[str, Any]]) -> list[str]:
    """Modules of all `_target_`s in these configs: worth importing before the jobs are forked."""
    return sorted({target.rpartition(".")[0] for target in targets_in(list(configs))} - {""})
