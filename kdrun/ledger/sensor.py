"""What a counter of joules is to the meter, and how one says that it cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

STUCK_SECONDS = 2.0
"""A counter of a machine that is switched on moves; one that stands still for longer is not read as 0 but as unknown."""


class Unreadable(Exception):
    """A sensor that is not there or may not be read; the text says what was looked for and why it failed."""


class Sensor(Protocol):
    """Joules since it was opened.

    method        "nvml", "rapl" or "codecarbon"
    covers        parts of the machine that are in it: "gpu", "cpu", "dram", "ram"
    devices       names or UUIDs of what is measured
    machine_wide  it also counts what other processes of this machine do
    estimate      it is a model rather than a measurement
    read          one sample; None: not known, and then until `restart`
    restart       count from now on, whatever was before; sensors that lose nothing in a gap do not have it
    """

    method: str
    machine_wide: bool
    estimate: bool

    @property
    def covers(self) -> tuple[str, ...]: ...

    @property
    def devices(self) -> list[str]: ...

    def read(self) -> float | None: ...

    def close(self) -> None: ...


class Counter:
    """Sums the steps of one hardware counter, which may wrap around, and notices where it stands still.

    value      reads the counter, in units of `unit` joules; raises OSError where it cannot
    span       value at which it starts again from 0; None: it never does, and going back is unknown
    most_watts power that the device cannot exceed: where so much could wrap twice between two reads, the sum is unknown
    """

    def __init__(
        self,
        value: Callable[[], float],
        unit: float,
        clock: Callable[[], float],
        span: float | None = None,
        most_watts: float = 1000.0,
    ):
        self._value, self._unit, self._clock, self._span, self._most = value, unit, clock, span, most_watts
        self._last, self._at = value(), clock()
        self._moved = self._at
        self.joules: float | None = 0.0
        self.counted = False  # whether it ever moved
        self.stuck = False

    def restart(self) -> None:
        """Count from here on, from 0 where the sum was lost: what was between is nobody's, however long it was."""
        self._last, self._at = self._value(), self._clock()
        self._moved, self.stuck = self._at, False
        self.joules = self.joules or 0.0

    def read(self) -> float | None:
        """Joules since it was made; None from the moment at which it cannot be known any more."""
        if self.joules is None:
            return None
        try:
            value = self._value()
        except OSError:
            self.joules = None
            return None
        now = self._clock()
        step = self._step(value, now)
        if step is None:
            self.joules = None
            return None
        self._last, self._at = value, now
        self.joules += step * self._unit
        if step > 0:
            self._moved, self.counted = now, True
        elif now - self._moved > STUCK_SECONDS:
            self.stuck = True
            self.joules = None
        return self.joules

    def _step(self, value: float, now: float) -> float | None:
        """What was counted since the last read; None where it cannot be known."""
        step: float | None = value - self._last
        if value < self._last:
            step = None if self._span is None else value - self._last + self._span
        wrapped = self._span is not None and (now - self._at) * self._most > self._span * self._unit
        return None if wrapped else step
