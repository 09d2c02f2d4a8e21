"""The caller's side of the fork server: requests in, events out, nothing left behind."""

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from kdrun.config.allowed import targets_in
from kdrun.environment import READABLE
from kdrun.ledger.machine import visible_gpus
from kdrun.problems import UserError
from kdrun.slots import ENVIRONMENT
from kdrun.tracking.mirror import mirror_environment

GRACE_SECONDS = 30.0
"""How long processes that were asked to stop may take to save their state before they are killed."""
JOBS = "KDRUN_JOBS"
"""Variable of the environment: what `jobs=` is for a single run where it is not typed."""
AUTO = "auto"


class ProcessPool:
    """Runs functions, `jobs` at a time, each in a process forked from a server that has everything imported.

    jobs     processes at a time; each gets an equal share of the cores as threads, and GPUs of its own where there are several
    preload  further modules worth importing once, as those of the jobs' targets
    devices  GPUs of one process, where its request does not say

    The server begins to import at once, so a pool is best made before it is known what is to be run. Leaving the block stops what
    still runs (its state is saved) and returns when no process is left.
    """

    def __init__(self, jobs: int = 1, preload: Sequence[str] = (), devices: int = 1):
        self.jobs = jobs
        self._waiting: deque[dict[str, Any]] = deque()
        self._running: dict[int, dict[str, Any]] = {}
        self._buffer = b""
        self._parts: dict[int, str] = {}
        self._kills = oom_kills()
        self._gpus, self._devices = visible_gpus() if jobs > 1 else [], devices
        self.threads = max(1, cores() // jobs)
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "kdrun.processes.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C comes to us alone
            env=_environment(self.threads),
        )
        self.preload(preload)

    def preload(self, modules: Sequence[str]) -> None:
        """Import further modules in the server, before the processes that are started from now on."""
        self._tell({"path": [os.path.abspath(path) for path in sys.path], "preload": list(modules)})

    @property
    def busy(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def start(self, number: int, call: str, log: Path, **request: Any) -> None:
        """Queue a call of `call` ("module:function") with the request and a function that tells events. It starts when a
        place is free and, where it has several "devices", as many GPUs are; what it prints goes to the file `log`. "shares" of a
        request: for how many processes it gets GPUs."""
        self._waiting.append(
            {"run": number, "call": call, "log": os.path.abspath(log), "threads": self.threads, **request}
        )
        self._fill()

    def send(self, number: int, text: str) -> None:
        """One line for the standard input of a running process."""
        self._tell({"send": number, "text": text})

    def release(self, number: int) -> None:
        """End the standard input of a running process."""
        self._tell({"release": number})

    def cancel(self) -> None:
        """Forget what has not been started."""
        self._waiting.clear()

    def stop(self, number: int | None = None, kill: bool = False) -> None:
        """Ask one process, or all, to save their state and stop; or end them at once."""
        for job in [number] if number is not None else list(self._running):
            self._tell({"stop": job, "signal": signal.SIGKILL if kill else signal.SIGTERM})

    def events(self, timeout: float = 0.5) -> Iterator[dict[str, Any]]:
        """What happened, waiting up to `timeout` seconds for the first of it. The last event of a process is "end", with its
        exit "code" (negative: a signal) and "memory": whether the system ran out of it meanwhile, and killed the process."""
        for event in self._read(timeout):
            if event["kind"] == "end":
                request, code = self._running.pop(event["number"]), event["code"]
                self._parts.pop(event["number"], None)
                event["memory"] = False
                if code < 0:
                    kills, self._kills = self._kills, oom_kills()
                    event["memory"] = self._kills > kills and code == -signal.SIGKILL
                self._ended(event, request)
                self._fill()
            yield event

    def _ended(self, event: dict[str, Any], request: dict[str, Any]) -> None:
        """Adds to an "end" event what is known of a process that is gone."""

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.jobs:
            gpus = self._gpus_for(self._waiting[0])
            if gpus is None:
                return
            request = self._waiting.popleft()
            request["environment"] = {name: os.environ.get(name, "") for name in (ENVIRONMENT, READABLE)}
            if len(self._gpus) > 1:
                request["gpus"] = gpus
                request["environment"]["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            self._running[request["run"]] = request
            self._tell(request)

    def _gpus_for(self, request: dict[str, Any]) -> list[str] | None:
        """The least used GPUs, as many as the request needs. One of a single device may share it with others; one of several waits
        (None) until none of them is used."""
        devices = request.get("devices", self._devices)
        used = [gpu for job in self._running.values() for gpu in job.get("gpus", ())]
        gpus = sorted(self._gpus, key=used.count)[: devices * request.get("shares", 1)]
        return None if devices > 1 and any(gpu in used for gpu in gpus[:devices]) else gpus

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
        return [event for line in lines if (event := self._whole(json.loads(line)))]

    def _whole(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """The event; of one that came in parts None until the last of them is there."""
        if event["kind"] != "part":
            return event
        text = self._parts.pop(event["number"], "") + event["text"]
        if event["last"]:
            return json.loads(text)
        self._parts[event["number"]] = text
        return None

    def __enter__(self) -> Self:
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


def why_ended(code: int, memory: bool) -> str:
    """`its process ended by SIGKILL: the system's memory ran out`. code: as of subprocess, negative for a signal."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its process ended by {name}" + (": the system's memory ran out" if memory else "")


def _environment(threads: int) -> dict[str, str]:
    count = str(threads)
    return mirror_environment() | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_of(hardware: Mapping[str, Any]) -> int:
    """How many GPUs a job with this node takes where there are some."""
    return hardware["devices"] if hardware["device"] in ("auto", "cuda") else 1


def jobs_of(text: str) -> int:
    """`jobs=N` as a number: at least 1; `auto` is one for every GPU, else one for every core. UserError otherwise."""
    if text == AUTO:
        return len(visible_gpus()) or cores()
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"jobs={text}: expected a number of at least 1, or auto")
    return int(text)


def jobs_within(text: str | None, hardware: Mapping[str, Any]) -> int:
    """How many stages of one job run at a time on this machine. text: `jobs=` as typed; None: not typed.

    auto: as many as have `hardware.devices` GPUs of their own; without a GPU, as have `hardware.threads` cores for each of their
    devices. One on Apple's GPU.
    """
    text = os.environ.get(JOBS) or AUTO if text is None else text
    if text != AUTO:
        return jobs_of(text)
    device, devices = hardware["device"], hardware["devices"]
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    if gpus:
        return max(1, len(gpus) // devices)
    if device == "mps" or (device == "auto" and sys.platform == "darwin"):
        return 1
    return max(1, cores() // (hardware["threads"] * devices))


def oom_kills() -> int:
    """How often the system has killed a process for want of memory; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def targets_of(configs: Iterable[dict[str, Any]]) -> list[str]:
    """Modules of all `_target_`s in these configs: worth importing before processes are forked."""
    return sorted({target.rpartition(".")[0] for target in targets_in(list(configs))} - {""})
