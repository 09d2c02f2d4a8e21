"""RAPL: the energy counters of processor packages, as Linux shows them below /sys/class/powercap (Intel and AMD).

A zone `intel-rapl:N` is a package (`package-0`), or `psys`, which is the whole platform and contains the packages. Zones
`intel-rapl:N:M` are parts of zone N: `core` and `uncore` lie inside the package, `dram` beside it. So packages and dram are
added, and nothing else: core or psys on top would count the same joules twice. `intel-rapl-mmio` shows packages once more.

Source: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c of Linux.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from kdrun.ledger.sensor import Counter, Unreadable

POWERCAP = Path("/sys/class/powercap")
ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
MICRO = 1e-6


class Rapl:
    """The joules of all packages of this machine, and of their memory where it has a counter of its own.

    Raises Unreadable where there is no package, or one of them may not be read.
    """

    method, machine_wide, estimate = "rapl", True, False

    def __init__(self, root: str | Path = POWERCAP, clock: Callable[[], float] = time.monotonic):
        root = Path(root)
        self._counters: dict[str, Counter] = {}
        for folder in _zones(root):
            name = _text(folder / "name")
            top = folder.name.count(":") == 1
            if not (name.startswith("package") if top else name == "dram"):
                continue
            label = name if top else f"{name} of {_text(_parent(root, folder) / 'name')}"
            try:
                span = float(_text(folder / "max_energy_range_uj") or 0) or None
                self._counters[label] = Counter(_reader(folder / "energy_uj"), MICRO, clock, span)
            except (OSError, ValueError) as error:
                if top:
                    raise Unreadable(_why(folder / "energy_uj", error)) from error
        if not any(name.startswith("package") for name in self._counters):
            raise Unreadable(f"RAPL: no intel-rapl:N with a name of package-N below {root}")

    @property
    def devices(self) -> list[str]:
        return list(self._counters)

    @property
    def covers(self) -> tuple[str, ...]:
        return ("cpu", "dram") if any(name.startswith("dram") for name in self._counters) else ("cpu",)

    def read(self) -> float | None:
        """Joules of all packages and memories since this object was made."""
        found = {name: counter.read() for name, counter in self._counters.items()}
        for name, counter in list(self._counters.items()):
            if counter.stuck and name.startswith("dram") and not counter.counted:
                del self._counters[name], found[name]  # some processors have a counter that always says 0
        return None if None in found.values() else sum(found.values())

    def restart(self) -> None:
        for counter in self._counters.values():
            counter.restart()

    def close(self) -> None:
        pass


def _zones(root: Path) -> list[Path]:
    """Folders of zones, whether sub-zones lie beside their parents (as in /sys/class) or inside them (as in /sys/devices)."""
    found = {path.name: path for path in (*root.glob("intel-rapl:*/intel-rapl:*"), *root.glob("intel-rapl:*"))}
    return [found[name] for name in sorted(found) if ZONE.fullmatch(name)]


def _parent(root: Path, folder: Path) -> Path:
    return root / folder.name.rpartition(":")[0]


def _reader(path: Path) -> Callable[[], float]:
    return lambda: float(path.read_text())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"RAPL: permission denied: {path} (root can allow it: chmod o+r {path})"
    return f"RAPL: {path} cannot be read: {error}"
