"""Scores of single classes on test, as a plain table: for `kdrun show` and for pages."""

from __future__ import annotations

from typing import Any

from kdrun.parts import headline_epoch
from kdrun.present.results import arm_text
from kdrun.present.units import MISSING
from kdrun.records import arms_of, before_and_after, mean_figure, own_arm, stages_of
from kdrun.report.parts import PageTable

SCORES = ("precision", "recall", "f1")
SUPPORT = "support/"


def class_tables(record: dict[str, Any]) -> list[PageTable]:
    """Of each class: test samples, precision, recall and F1 of the student, F1 of the other arms; means over seeds, at the epoch that
    the run is judged by. [] for data whose records have no such scores."""
    which, own = headline_epoch(record.get("summary") or {}), own_arm(record)
    arms = {arm: list(stages_of(record, arm).values()) for arm in before_and_after(arms_of(record))}
    others = [arm for arm in arms if arm != own and any(map(_classes, arms[arm]))]
    stages = arms.get(own, [])
    labels = list(dict.fromkeys(label for stage in stages for label in _classes(stage)))
    if not labels:
        return []
    rows = []
    for label in labels:
        cells = [mean_figure(stages, f"{score}/{label}", which) for score in SCORES]
        cells += [mean_figure(arms[arm], f"f1/{label}", which) for arm in others]
        support = mean_figure(stages, f"{SUPPORT}{label}", which)
        rows.append((label, MISSING if support is None else f"{support:.4g}", *map(_percent, cells)))
    head = ("class", "samples", *SCORES[:2], "F1", *(f"F1 {arm.replace('_', ' ')}" for arm in others))
    return [PageTable(f"test by class, {arm_text(record, own)}, {which} epoch, %", head, rows)]


def _classes(stage: dict[str, Any]) -> list[str]:
    scores = next(iter((stage.get("test") or {}).values()), None)
    names = scores if isinstance(scores, dict) else ()  # old records have the accuracy alone
    return [name.removeprefix(SUPPORT) for name in names if name.startswith(SUPPORT)]


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"
