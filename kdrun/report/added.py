"""What metrics beside those of every task say on test, as plain tables: for `kdrun show` and for pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdrun import kinds
from kdrun.measures import measure
from kdrun.parts import headline_epoch
from kdrun.present.units import MISSING
from kdrun.records import mean_figure, metric_of
from kdrun.report.parts import PageTable

OF_STEPS = ("accuracy/step_", "wrong_steps", "firing_rate")


def added_metrics(record: dict[str, Any]) -> list[PageTable]:
    """Tables of test figures at the epoch that the run is judged by, means over seeds for each role: of the metrics that the config adds
    (`metrics.NAME`), of networks with an answer at every step or with spikes (scores.StepScores), and of what the kind of data has beside
    its main one (macro F1, MCC, perplexity ...). [] without any."""
    which = headline_epoch(record.get("summary") or {})
    stages: dict[str, list[dict[str, Any]]] = {}
    for stage in record.get("stages") or []:
        if isinstance((stage.get("test") or {}).get(which), dict):  # old records have the accuracy alone
            stages.setdefault(stage["role"], []).append(stage)
    tables = []
    if stages and (names := list((record.get("config") or {}).get("metrics") or {})):
        rows = [
            (role, *(_text(mean_figure(found, name, which), "{:.4f}".format) for name in names))
            for role, found in stages.items()
        ]
        tables.append(PageTable(f"metrics of the config, on test, {which} epoch", ("", *names), rows))
    others = _beside(record)
    for caption, chosen, text in (
        ("steps and spikes, on test, {} epoch, %", _of_steps, lambda name: measure(name).label.replace("_", " ")),
        (
            "other scores of test, {} epoch",
            lambda scores: [name for name in others if name in scores],
            lambda name: measure(name).title,
        ),
    ):
        found = {role: names for role, entries in stages.items() if (names := chosen(entries[0]["test"][which]))}
        rows = [
            (text(name), *(_text(mean_figure(stages[role], name, which), measure(name).figure) for role in found))
            for name in dict.fromkeys(name for names in found.values() for name in names)
        ]
        if rows:
            tables.append(PageTable(caption.format(which), ("", *(role.replace("_", " ") for role in found)), rows))
    return tables


def _beside(record: dict[str, Any]) -> list[str]:
    """The metrics of the kind of data but for the main one of the record."""
    task = ((record.get("config") or {}).get("data") or {}).get("task")
    if task not in kinds.names():
        return []  # of a domain that is not there any more
    return [name for name in kinds.find(task).metrics if name != metric_of(record)]


def _of_steps(scores: Any) -> list[str]:
    return [name for name in scores if name.startswith(OF_STEPS)]


def _text(mean: float | None, text: Callable[[float], str]) -> str:
    return MISSING if mean is None else text(mean)
