"""What metrics of a config (`metrics.NAME`) say on test, as a plain table: for `kdrun show` and for pages."""

from __future__ import annotations

import statistics
from typing import Any

from kdrun.parts import headline_epoch
from kdrun.present.units import MISSING
from kdrun.records import figure_of
from kdrun.report.parts import PageTable


def added_metrics(record: dict[str, Any]) -> list[PageTable]:
    """Test figures of the metrics that the config adds, at the epoch that the run is judged by: a mean over seeds for each role; [] without any."""
    names = list((record.get("config") or {}).get("metrics") or {})
    which = headline_epoch(record.get("summary") or {})
    values: dict[str, list[dict[str, Any]]] = {}
    for stage in record.get("stages") or []:
        if (stage.get("test") or {}).get(which):
            values.setdefault(stage["role"], []).append(stage)
    rows = []
    for role, stages in values.items():
        known = [
            [value for stage in stages if (value := figure_of(stage, name, which=which)) is not None] for name in names
        ]
        rows.append((role, *(f"{statistics.fmean(found):.4f}" if found else MISSING for found in known)))
    return [PageTable(f"metrics of the config, on test, {which} epoch", ("", *names), rows)] if names and rows else []
