"""Energy for people: `14.3 mJ (3.98 nWh, 1.91 ng CO2e), estimate`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from kdrun.accounting.formulas import GRID, PUE, Amount, co2e, kwh, total
from kdrun.accounting.stages import item_of
from kdrun.files import number
from kdrun.present.units import MISSING, PREFIXES, scaled


def si(value: float | None, unit: str) -> str:
    """`14.3 mJ`, `1.20 kWh`, with three digits; n/a where it is not known."""
    value = number(value)
    if value is None:
        return MISSING
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f} {unit}"
    value = float(f"{value:.3g}")
    value, prefix = scaled(value, (*PREFIXES[2:], (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")))
    digits = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))
    return f"{value:.{digits}f} {prefix}{unit}"


def joules_text(value: Amount) -> str:
    """`14.3 mJ, estimate`."""
    return si(value.joules, "J") + (f", {value.word}" if value.word else "")


def energy_text(value: Amount, pue: float = PUE, grid: float = GRID) -> str:
    """`14.3 mJ (3.98 nWh, 1.91 ng CO2e), estimate`."""
    if value.joules is None:
        return MISSING
    hours, carbon = si(1e3 * kwh(value.joules), "Wh"), si(1e3 * co2e(value.joules, pue, grid), "g")
    return f"{si(value.joules, 'J')} ({hours}, {carbon} CO2e)" + (f", {value.word}" if value.word else "")


def fitted(stages: Iterable[Mapping[str, Any]]) -> Amount:
    """What the stages of a run record took that were not in the store; NOTHING where there is none."""
    found = {stage["fingerprint"]: stage for stage in stages if stage.get("source") != "store"}
    return total(item_of(stage).total for stage in found.values())
