"""One meter per process: samples the sensors often enough, and knows when a counter of the machine is shared with other jobs."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdrun.ledger.sensor import Sensor

TELL_SECONDS = 2.0


class Meter:
    """Cumulative joules of each sensor while a stage runs (between `begin` and `end`).

    A daemon thread reads every `interval` seconds, so that counters that wrap around are seen to, and power is integrated. It is
    the only one that reads sensors in this process; stages ask it and add nothing of their own.

    Where another job of kdrun on this machine is metered at the same time, a counter of the whole machine counts both. Its step
    is then multiplied by this process's part of the processor time that all processes of the machine took meanwhile, and
    `shared` says so: the number is an estimate from then on. Of a GPU that two jobs use nothing is known.

    joules are None from the moment at which a sensor could not be read, until `begin`: each stage has a baseline of its own, so
    that a gap between two (data that are loaded, another process that is waited for) is in neither.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        interval: float = 0.5,
        *,
        presence: Presence | None = None,
        processes: int = 1,
        busy: Callable[[], tuple[float, float] | None] | None = None,
    ):
        self.sensors = {sensor.method: sensor for sensor in sensors}
        self.interval = interval
        self.idle_watts: float | None = None
        self.shared = False
        self._presence = presence or Presence()
        self._busy = busy or (lambda: processor_seconds(processes))
        self._lock = threading.RLock()
        self._joules: dict[str, float | None] = dict.fromkeys(self.sensors, 0.0)
        self._last: dict[str, float | None] = {}
        self._times: tuple[float, float] | None = None
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, tell: Callable[[], None] = lambda: None) -> None:
        """Start to count. tell: called by the thread every few seconds, for what is written down meanwhile."""
        with self._lock:
            self._presence.enter(self._resources())
            self.shared = False
            for name, sensor in self.sensors.items():
                with contextlib.suppress(Exception):  # one that cannot be read says so when it is read
                    if hasattr(sensor, "restart"):
                        sensor.restart()
                self._joules[name] = self._joules[name] or 0.0
            self._last = {name: _read(sensor) for name, sensor in self.sensors.items()}
            self._times = self._busy()
        self._wake.clear()
        self._thread = threading.Thread(target=self._watch, args=(tell,), name="kdrun-energy", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop to count; `begin` may follow."""
        if self._thread is None:
            return
        self.read()
        self._wake.set()
        self._thread.join()
        self._thread = None
        self._presence.leave()

    def close(self) -> None:
        """Give the sensors back."""
        self.end()
        for sensor in self.sensors.values():
            sensor.close()

    def read(self) -> dict[str, float | None]:
        """Joules of each sensor up to now, over all stages of this process."""
        with self._lock:
            if self._last:
                self._sample()
            return dict(self._joules)

    def measure_idle(self, seconds: float) -> float | None:
        """Mean watts of all sensors while nothing is done for `seconds`, before any stage; kept in `idle_watts`."""
        self.begin()
        before, started = self.read(), time.monotonic()
        time.sleep(seconds)
        after, elapsed = self.read(), time.monotonic() - started
        self.end()
        steps = [None if None in (before[name], after[name]) else after[name] - before[name] for name in before]
        known = bool(steps) and None not in steps and sum(steps) > 0 and not self.shared
        self.idle_watts = sum(steps) / elapsed if known else None
        return self.idle_watts

    def _sample(self) -> None:
        others = self._presence.others()
        part = None
        if any(sensor.machine_wide and sensor.method in others for sensor in self.sensors.values()):
            part = self._part()
        elif self._times is not None:
            self._times = self._busy()
        for name, sensor in self.sensors.items():
            value, last = _read(sensor), self._last[name]
            self._last[name] = value
            if value is None or last is None or self._joules[name] is None:
                self._joules[name] = None
                continue
            step: float | None = value - last
            if sensor.machine_wide and name in others:
                self.shared = True
                step = None if part is None else step * part
            elif not sensor.machine_wide and others.intersection(sensor.devices):
                step = None
            self._joules[name] = None if step is None else self._joules[name] + step

    def _part(self) -> float | None:
        """This process's part of the processor time of the machine since the last sample."""
        before, self._times = self._times, self._busy()
        if before is None or self._times is None:
            return None
        own, all_ = (now - then for now, then in zip(self._times, before, strict=True))
        return min(1.0, own / all_) if all_ > 0 else 0.0

    def _watch(self, tell: Callable[[], None]) -> None:
        told = time.monotonic()
        while not self._wake.wait(self.interval):
            self.read()
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                tell()

    def _resources(self) -> list[str]:
        found: list[str] = []
        for sensor in self.sensors.values():
            found += [sensor.method] if sensor.machine_wide else sensor.devices
        return found


class Presence:
    """Which other processes of this user on this machine are metered now: one small file each, named by process id."""

    def __init__(self, folder: str | Path | None = None, pid: int | None = None):
        user = os.getuid() if hasattr(os, "getuid") else "user"
        self._folder = Path(folder or Path(tempfile.gettempdir()) / f"kdrun-metered-{user}")
        self._pid = os.getpid() if pid is None else pid

    def enter(self, resources: Sequence[str]) -> None:
        """This process counts `resources` (methods of machine-wide sensors, UUIDs of GPUs) from now on."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / str(self._pid)).write_text(json.dumps(list(resources)))

    def leave(self) -> None:
        with contextlib.suppress(OSError):
            (self._folder / str(self._pid)).unlink()

    def others(self) -> set[str]:
        """What other living processes count. Files of dead ones are removed."""
        found: set[str] = set()
        try:
            entries = [entry for entry in os.scandir(self._folder) if entry.name.isdigit()]
        except OSError:
            return found
        for entry in entries:
            if int(entry.name) == self._pid:
                continue
            with contextlib.suppress(OSError, ValueError):
                if _alive(int(entry.name)):
                    found.update(json.loads(Path(entry.path).read_text()))
                else:
                    os.unlink(entry.path)
        return found


def processor_seconds(processes: int = 1, stat: str | Path = "/proc/stat") -> tuple[float, float] | None:
    """(of this process, of all processes of the machine), of which this may be one of `processes` that work alike (ranks).

    None where the system does not tell. Linux: user, nice, system, irq, softirq and steal of the first line, in ticks.
    """
    try:
        words = Path(stat).read_text().split("\n", 1)[0].split()
        ticks = [int(word) for word in words[1:9]]
        user, nice, system, _idle, _wait, irq, softirq, steal = ticks
        everything = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    return processes * time.process_time(), everything


def _read(sensor: Any) -> float | None:
    try:
        return sensor.read()
    except Exception:  # a sensor that breaks half-way must not end a run of hours
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
