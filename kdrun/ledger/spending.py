"""The energy of one stage: joules and seconds by phase, over all its tries, and what of them was lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdrun.checksums import mended
from kdrun.files import read_json, write_json
from kdrun.ledger.meter import Meter

PREPARE, TEACHER, TRAIN, EVALUATE = PHASES = ("prepare", "teacher", "train", "evaluate")
"""Data and features; the teacher's check and its cache; steps (with an online teacher's passes); validation and test."""

SIDE = "energy.json"
MEANT = {"gpu": 0, "cpu": 1, "dram": 2, "ram": 3}

Model = Callable[[float], float | None]
"""FLOPs -> joules, an estimate."""


class Spending:
    """What a stage has taken up to now.

    meter   of this process; None: no sensor
    model   FLOPs -> joules, where no sensor knows; None: there is no model
    source  name of the figures that the model is made from
    work    the stage's work folder: `energy.json` in it says every few seconds what all tries took together, so that the next
            try knows what a killed one had spent after its last checkpoint

    Work that was lost is waste. What a killed try took after the last of these notes is in neither.
    """

    def __init__(
        self,
        meter: Meter | None = None,
        model: Model | None = None,
        source: str | None = None,
        work: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._meter, self._model, self._source, self._work, self._clock = meter, model, source, work, clock
        self._lock = threading.RLock()
        self._phase = PREPARE
        self._joules: dict[str, dict[str, float | None]] = {name: {} for name in (meter.sensors if meter else ())}
        self._seconds: dict[str, float] = {}
        self._earlier: dict[str, Any] = {"joules": {}, "seconds": {}, "idle": 0.0, "shared": False}
        self._spent = self._noted()
        self._told = clock()
        if meter is not None:
            meter.begin(self.note)
        self._mark_joules, self._mark_seconds = (meter.read() if meter else {}), clock()
        self.note()

    def enter(self, phase: str) -> str:
        """What comes next belongs to `phase`; returns the one that it belonged to."""
        if phase not in PHASES:
            raise ValueError(f"no phase {phase!r}")
        with self._lock:
            self._mark()
            before, self._phase = self._phase, phase
        return before

    def moment(self) -> tuple[float | None, float]:
        """(joules of this try by all sensors, clock) now: what `taken` measures from. None without a sensor that works."""
        with self._lock:
            self._mark()
            totals = [known_sum(by.values()) for by in self._joules.values()]
            return (known_sum(totals) if totals else None), self._mark_seconds

    def taken(self, since: tuple[float | None, float], flops: float | None = None) -> dict[str, Any]:
        """{"joules", "seconds", "estimate"} since a moment: by the sensors, else by the model from FLOPs, else None."""
        joules, now = self.moment()
        measured = None if None in (joules, since[0]) else joules - since[0]
        found, estimate = (measured, self.estimates) if measured else (self.modelled(flops), True)
        return {"joules": found, "seconds": now - since[1], "estimate": None if found is None else estimate}

    @property
    def estimates(self) -> bool:
        """Whether what the sensors say is an estimate."""
        if self._meter is None:
            return True
        return self._is_shared() or any(sensor.estimate for sensor in self._meter.sensors.values())

    def modelled(self, flops: float | None) -> float | None:
        """Joules of so many FLOPs by the model; None without one."""
        return None if flops is None or self._model is None else self._model(flops)

    def note(self, every: float = 0.0) -> None:
        """Write down what all tries took together; at most every so many seconds."""
        if self._work is None or self._clock() - self._told < every:
            return
        with self._lock:
            self._told = self._clock()
            self._mark()
            with contextlib.suppress(OSError):  # not durable: after a power cut an old one will do
                write_json(self._work / SIDE, self._all(), durable=False)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what is spent on the work that it holds."""
        with self._lock:
            self._mark()
            return {
                "joules": {name: self._by_phase(name) for name in self._joules},
                "seconds": self._seconds_by_phase(),
                "idle": self._idle(),
                "shared": self._is_shared(),
                "spent": self._all(),
            }

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint. A sensor that it does not know is unknown for the whole stage."""
        with self._lock:
            if state is None:
                self._earlier |= {"joules": {name: {PREPARE: None} for name in self._joules}, "idle": None}
                return
            earlier = {name: state["joules"].get(name, {PREPARE: None}) for name in self._joules}
            own = {name: state[name] for name in ("seconds", "idle", "shared")}
            self._earlier = {"joules": earlier, **own}
            self._spent = _larger(self._spent, state.get("spent") or {})

    def close(self) -> None:
        """The stage is over, or was stopped."""
        if self._meter is not None:
            self.note()
            self._meter.end()

    def record(self, flops: Mapping[str, float | None] | None = None) -> dict[str, Any] | None:
        """`cost.energy` of the stage's record; None where nothing is known.

        flops: phase -> FLOPs of all tries, for the model; None: not counted. A phase that it lacks has seconds and no joules.
        """
        with self._lock:
            self._mark()
            return self._measured() or self._estimated(flops)

    def _measured(self) -> dict[str, Any] | None:
        seconds = self._seconds_by_phase()
        found = {name: self._by_phase(name) for name in self._joules}
        # A counter that says 0 for a whole stage does not say what the stage took.
        used = [name for name, by in found.items() if None not in by.values() and sum(by.values()) > 0]
        if not used:
            return None
        phases = {
            phase: {"joules": round(sum(found[name].get(phase, 0.0) for name in used), 6), "seconds": round(value, 3)}
            for phase, value in seconds.items()
        }
        joules = round(sum(phase["joules"] for phase in phases.values()), 6)
        sensors = [self._meter.sensors[name] for name in used]
        shared, idle = self._is_shared(), self._idle()
        waste = [self._waste(name, sum(found[name].values())) for name in used]
        return {
            "joules": joules,
            "net_joules": None if idle is None or shared or len(used) < len(found) else round(joules - idle, 6),
            "waste_joules": None if None in waste else round(sum(waste), 6),
            "phases": phases,
            "method": "+".join(sorted(used)),
            "estimate": shared or any(sensor.estimate for sensor in sensors),
            "shared": shared,
            "coverage": coverage(part for sensor in sensors for part in sensor.covers),
            "interval": self._meter.interval,
            "idle_watts": self._meter.idle_watts,
            "devices": [device for sensor in sensors for device in sensor.devices],
        }

    def _estimated(self, flops: Mapping[str, float | None] | None) -> dict[str, Any] | None:
        if flops is None:
            return None
        found = {phase: self.modelled(value) for phase, value in flops.items()}
        if not found or None in found.values():
            return None
        seconds = self._seconds_by_phase()
        phases = {
            phase: {
                "joules": None if phase not in found else round(found[phase], 9),
                "seconds": round(seconds.get(phase, 0.0), 3),
            }
            for phase in PHASES
            if phase in seconds or phase in found
        }
        joules = sum(phase["joules"] for phase in phases.values() if phase["joules"] is not None)
        whole = sum(seconds.values())
        lost = max(0.0, (self._all()["seconds"] or 0.0) - whole)
        return {
            "joules": joules,
            "net_joules": None,
            "waste_joules": round(joules * lost / whole, 9) if whole > 0 else None,  # at the stage's mean power
            "phases": phases,
            "method": "flops",
            "estimate": True,
            "shared": False,
            "coverage": "model",
            "interval": None,
            "idle_watts": None,
            "devices": [] if self._source is None else [self._source],
        }

    # counting

    def _mark(self) -> None:
        """What the meter and the clock counted since the last mark belongs to the phase that is on."""
        now, joules = self._clock(), self._meter.read() if self._meter else {}
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._mark_seconds
        for name, value in joules.items():
            last, by = self._mark_joules[name], self._joules[name]
            before = by.get(self._phase, 0.0)
            by[self._phase] = None if None in (value, last, before) else before + value - last
        self._mark_joules, self._mark_seconds = joules, now

    def _by_phase(self, name: str) -> dict[str, float | None]:
        """phase -> joules of a sensor, of this try and of the earlier ones that it goes on from."""
        own, earlier = self._joules[name], self._earlier["joules"].get(name, {})
        found = {}
        for phase in PHASES:
            values = [by[phase] for by in (earlier, own) if phase in by]
            if values:
                found[phase] = known_sum(values)
        return found

    def _seconds_by_phase(self) -> dict[str, float]:
        earlier = self._earlier["seconds"]
        phases = [phase for phase in PHASES if phase in self._seconds or phase in earlier]
        return {phase: self._seconds.get(phase, 0.0) + earlier.get(phase, 0.0) for phase in phases}

    def _idle(self) -> float | None:
        """Joules that the idle machine would have taken meanwhile."""
        watts, earlier = None if self._meter is None else self._meter.idle_watts, self._earlier["idle"]
        return None if None in (watts, earlier) else earlier + watts * sum(self._seconds.values())

    def _is_shared(self) -> bool:
        return self._earlier["shared"] or (self._meter is not None and self._meter.shared)

    # over tries

    def _noted(self) -> dict[str, Any]:
        """What earlier tries took, as the last note in the work folder says; of a first try nothing."""
        none: dict[str, Any] = {"joules": {}, "seconds": 0.0, "tries": 0}
        if self._work is None or not (self._work / SIDE).is_file():
            return none
        try:
            found = read_json(self._work / SIDE)
            return {
                "joules": {
                    str(name): value if value is None else float(value) for name, value in found["joules"].items()
                },
                "seconds": float(found["seconds"]),
                "tries": int(found["tries"]),
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            mended(f"{self._work / SIDE} is damaged: what earlier tries of the stage took is not known")
            return none | {"joules": dict.fromkeys(self._joules)}  # unknown, not 0

    def _all(self) -> dict[str, Any]:
        """Joules of each sensor and seconds of all tries, lost ones included."""
        spent, first = self._spent, not self._spent["tries"]
        joules = {}
        for name, by in self._joules.items():
            before = spent["joules"].get(name, 0.0 if first else None)
            joules[name] = known_sum([before, *by.values()])
        return {
            "joules": joules,
            "seconds": spent["seconds"] + sum(self._seconds.values()),
            "tries": spent["tries"] + 1,
        }

    def _waste(self, name: str, kept: float) -> float | None:
        spent = self._all()["joules"][name]
        return None if spent is None else max(0.0, spent - kept)


def coverage(parts: Any) -> str:
    """`gpu+cpu`, `cpu+dram`, `gpu only`: what is in the joules."""
    found = sorted(set(parts), key=MEANT.__getitem__)
    return "+".join(found) if len(found) > 1 else f"{found[0]} only"


def known_sum(values: Any) -> float | None:
    """The sum; None as soon as one is not known."""
    found = list(values)
    return None if None in found else sum(found)


def _larger(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Of two notes of what was spent the later one, sensor by sensor: spending only grows."""
    joules = {}
    for name in {*one["joules"], *(other.get("joules") or {})}:
        values = [spent["joules"].get(name) for spent in (one, other) if name in (spent.get("joules") or {})]
        joules[name] = None if None in values else max(values)
    return {
        "joules": joules,
        "seconds": max(one["seconds"], other.get("seconds") or 0.0),
        "tries": max(one["tries"], other.get("tries") or 0),
    }
