"""What metrics beside those of every task say on test, as plain tables: for `kdrun show` and for pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdrun.measures import measure
from kdrun.parts import headline_epoch
from kdrun.present.units import MISSING
from kdrun.records import mean_figure
from kdrun.report.parts import PageTable

OF_STEPS = ("accuracy/step_", "wrong_steps", "firing_rate")


def added_metrics(record: dict[str, Any]) -> list[PageTable]:
    """Tables of test figures at the epoch that the run is judged by, means over seeds for each role: of the metrics that the config adds
    (`metrics.NAME`), and of networks with an answer at every step or with spikes (scores.StepScores). [] without any."""
    which = headline_epoch(record.get("summary") or {})
    stages: dict[str, list[dict[str, Any]]] = {}
    for stage in record.get("stages") or []:
        if (stage.get("test") or {}).get(which):
            stages.setdefault(stage["role"], []).append(stage)
    tables = []
    if stages and (names := list((record.get("config") or {}).get("metrics") or {})):
        rows = [
            (role, *(_text(mean_figure(found, name, which), "{:.4f}".format) for name in names))
            for role, found in stages.items()
        ]
        tables.append(PageTable(f"metrics of the config, on test, {which} epoch", ("", *names), rows))
    steps = dict.fromkeys(name for found in stages.values() for name in _of_steps(found[0]["test"][which]))
    if steps:
        roles = [role for role, found in stages.items() if _of_steps(found[0]["test"][which])]
        rows = [
            (
                measure(name).label.replace("_", " "),
                *(_text(mean_figure(stages[role], name, which), measure(name).figure) for role in roles),
            )
            for name in steps
        ]
        tables.append(PageTable(f"steps and spikes, on test, {which} epoch, %", ("", *roles), rows))
    return tables


def _of_steps(scores: Any) -> list[str]:
    return [name for name in scores if name.startswith(OF_STEPS)] if isinstance(scores, dict) else []


def _text(mean: float | None, text: Callable[[float], str]) -> str:
    return MISSING if mean is None else text(mean)
