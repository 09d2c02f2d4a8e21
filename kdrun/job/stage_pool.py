"""The processes that fit the stages of one job side by side, seen from the one that owns its run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdrun.job.stage_worker import packed, unpacked_error
from kdrun.learning.report import Interrupted, Report
from kdrun.processes.pool import GRACE_SECONDS, ProcessPool, why_ended


class Killed(RuntimeError):
    """A process ended without a word."""


class OutOfMemory(MemoryError):
    """The system killed a process for want of memory."""


class StagePool:
    """Fits stages in processes that are used again, and reports what they tell.

    processes  as many as may work at a time
    request    what each of them needs to know (stage_worker.serve)
    report     has one `beside()` it for each process
    limit      how many may work at a time; less than there are once memory was short
    """

    def __init__(self, processes: ProcessPool, request: dict[str, Any], report: Any, log: Path):
        self.processes, self.request, self.report, self.log = processes, request, report, log
        self.limit = processes.jobs
        self._tasks: dict[int, Any] = {}
        self._reports: dict[int, Report] = {}
        self._pids: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._number = 0
        self._most = _memory("self", "VmRSS")

    @property
    def working(self) -> int:
        return sum(task is not None for task in self._tasks.values())

    @property
    def started(self) -> bool:
        """Whether there has been a process."""
        return self._number > 0

    @property
    def free(self) -> bool:
        """Whether another stage can begin: there are fewer than `limit`, and memory for one more process."""
        if self.working >= self.limit:
            return False
        return bool(self._idle()) or (len(self._tasks) < self.processes.jobs and self._room())

    def run(self, task: Any) -> None:
        """Begin to fit `task.stage`; `task` is given back with what becomes of it, and `task.rows` takes rows of metrics."""
        number = next(iter(self._idle()), None)
        if number is None:
            number, self._number = self._number, self._number + 1
            self._reports[number] = self.report.beside()
            self.processes.start(number, "kdrun.job.stage_worker:serve", self.log, **self.request)
        self._tasks[number] = task
        self.processes.send(number, packed(task.stage))

    def events(self, timeout: float) -> Iterator[tuple[Any, dict[str, Any] | BaseException]]:
        """(task, what the process said of the finished stage, or why it failed), after waiting for it at most so many seconds."""
        for event in self.processes.events(timeout):
            number, kind = event["number"], event["kind"]
            task = self._tasks.get(number)
            if kind == "start":
                self._pids[number] = event["pid"]
            elif kind == "fitted":
                self._tasks[number] = None
                self._reports[number].ended()
                self._measure(number)
                yield task, event
            elif kind in ("failed", "stopped"):
                self._tasks[number] = None
                self._leaving.add(number)
                yield task, Interrupted() if kind == "stopped" else unpacked_error(event["error"])
            elif kind == "end":
                self._tasks.pop(number, None)
                self._leaving.discard(number)
                self._pids.pop(number, None)
                self._reports.pop(number).ended()
                if task is not None:
                    kind = OutOfMemory if event["memory"] else Killed
                    yield task, kind(why_ended(event["code"], event["memory"]))
            else:
                _tell(self._reports[number], event, task)

    def stop(self) -> None:
        """All save their state and end; returns when they have."""
        self.processes.cancel()
        self.processes.stop()
        end = time.monotonic() + GRACE_SECONDS
        while self.processes.busy and time.monotonic() < end:
            for _ in self.events(0.2):
                pass

    def _idle(self) -> list[int]:
        return [number for number, task in self._tasks.items() if task is None and number not in self._leaving]

    def _measure(self, number: int) -> None:
        self._most = max(self._most, _memory(self._pids.get(number, "self"), "VmHWM"))

    def _room(self) -> bool:
        """Whether one more process as large as the largest of this job would fit into memory beside those that work."""
        for number in self._tasks:
            self._measure(number)
        available = _memory_available()
        return not self._tasks or available is None or available > self._most


def _tell(report: Any, event: dict[str, Any], task: Any) -> None:
    """Calls the method of a report that an event stands for; rows of metrics are for the task."""
    kind = event["kind"]
    if kind == "stage":
        report.stage(event["label"], event["total"], event["done"], event["unit"])
    elif kind == "progress":
        report.advance(event["done"])
    elif kind == "epoch":
        report.epoch(event["label"], event["epoch"], event["epochs"], event["values"])
    elif kind == "rows":
        task.rows(event["rows"])
    elif kind == "mended":
        report.mended(event["text"])
    elif kind == "note":
        report.note(event["text"])


def _memory(process: int | str, name: str) -> int:
    """Bytes, as /proc/PID/status says: VmRSS now, VmHWM at most. 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return 0


def _memory_available() -> int | None:
    """Bytes that new processes may take: of the machine, or of the control group where that is less. None: not known."""
    limits: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with contextlib.suppress(OSError, ValueError, KeyError, StopIteration):
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))  # "max" is no limit
        lines = (group / "memory.stat").read_text().splitlines()
        cached = int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
        limits.append(most - used + cached)
    return min(limits, default=None)
