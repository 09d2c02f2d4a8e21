"""CodeCarbon as a library, offline: where no counter can be read, a constant-power model of load and time. Always an estimate.

Its CPU power is a table's figure for the processor times the load, its RAM power a constant: see its documentation. Nothing is
sent, and nothing written to the current folder. It takes a second or two to start.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from kdrun.ledger.sensor import Unreadable

JOULES_PER_KWH = 3.6e6
COUNTRY = "USA"
"""CodeCarbon wants one for its emissions, which kdrun does not take from it; energy does not depend on it."""


def require() -> None:
    """Raises Unreadable where the package is not installed; imports nothing."""
    if importlib.util.find_spec("codecarbon") is None:
        raise Unreadable("CodeCarbon: the package codecarbon is not installed: pip install codecarbon")


class CodeCarbon:
    """Raises Unreadable where the package is not installed."""

    method, machine_wide, estimate = "codecarbon", True, True

    def __init__(self, interval: float = 0.5):
        require()
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # it tells at its construction what it was asked not to tell
        try:
            from codecarbon import OfflineEmissionsTracker
            from codecarbon.output import BaseOutput

            class Keep(BaseOutput):
                """What was handed out last."""

                last: Any = None

                def out(self, total: Any, delta: Any) -> None:
                    self.last = total

            self._keep = Keep()
            self._tracker = OfflineEmissionsTracker(
                country_iso_code=COUNTRY,
                output_methods=[],  # no file: it is handed to `Keep` alone
                log_level="critical",
                measure_power_secs=interval,
                allow_multiple_runs=True,
                output_handlers=[self._keep],
            )
            self._tracker.start()
        finally:
            logging.disable(disabled)
        self._start = 0.0
        self._start = self.read()

    @property
    def devices(self) -> list[str]:
        found = self._tracker.get_detected_hardware()
        return [str(found[name]) for name in ("cpu_model", "gpu_model") if found.get(name)]

    @property
    def covers(self) -> tuple[str, ...]:
        gpu = self._keep.last is not None and self._keep.last.gpu_energy > 0
        return (*(("gpu",) if gpu else ()), "cpu", "ram")

    def read(self) -> float | None:
        """Joules since this object was made, as CodeCarbon models them."""
        self._tracker.flush()
        total = self._keep.last
        if total is None or self._start is None:
            return None
        return JOULES_PER_KWH * total.energy_consumed - self._start

    def close(self) -> None:
        self._tracker.stop()
