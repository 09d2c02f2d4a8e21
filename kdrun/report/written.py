"""What networks write behind prompts of test, as plain tables: for `kdrun show` and for pages."""

from __future__ import annotations

from typing import Any

from kdrun import kinds
from kdrun.measures import measure
from kdrun.parts import headline_epoch
from kdrun.present.results import arm_text
from kdrun.present.units import MISSING, share
from kdrun.records import arms_of, before_and_after, mean_figure, stages_of
from kdrun.report.parts import PageTable


def written_tables(record: dict[str, Any]) -> list[PageTable]:
    """Scores of generated texts, a mean over seeds for each arm, with the share of samples of which an arm beats its teacher; and some of
    the texts. [] where nothing was written."""
    summary = record.get("summary") or {}
    task = ((record.get("config") or {}).get("data") or {}).get("task")
    names = kinds.find(task).written if task in kinds.names() else ()
    which, arms = headline_epoch(summary), before_and_after(arms_of(record))
    rows = [_row(record, role, names, which) for role in ("teacher", *arms)]
    won = any("wins" in arm for arm in arms_of(record).values())
    head = ("", *(measure(name).title for name in names), *(["better than teacher"] if won else []))
    rows = [(*row, *([_wins(record, row[0], which)] if won else [])) for row in rows if set(row[1:]) - {MISSING}]
    found = [
        PageTable(f"written texts of test, {which} epoch", head, [(arm_text(record, row[0]), *row[1:]) for row in rows])
    ]
    texts = [
        (f"prompt {number}" if place == 0 else "", name, text)
        for number, one in enumerate(summary.get("written") or [], 1)
        for place, (name, text) in enumerate(_said(record, one))
    ]
    found.append(PageTable("some of them", ("", "", "text"), texts, left=3))
    return [table for table in found if names and table.rows]


def _row(record: dict[str, Any], role: str, names: tuple[str, ...], which: str) -> tuple[str, ...]:
    means = {name: mean_figure(stages_of(record, role).values(), name, which) for name in names}
    return role, *(MISSING if mean is None else measure(name).figure(mean) for name, mean in means.items())


def _wins(record: dict[str, Any], role: str, which: str) -> str:
    won = (arms_of(record).get(role) or {}).get("wins")
    return f"{share(won[which]['mean'])} of {won['samples']:,}" if won else ""


def _said(record: dict[str, Any], one: dict[str, Any]) -> list[tuple[str, str]]:
    texts = [(arm_text(record, arm), text) for arm, text in one["texts"].items()]
    return [("prompt", one["prompt"]), ("reference", one["reference"]), *texts]
