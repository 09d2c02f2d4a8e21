"""The verdict of a run in words, the same in panel, show, compare, reports and Python; and what would settle one that is open.

An interval that holds 0 shows no difference and no absence of one: it is called undecided, with the smallest effect that
the seeds could have shown and the number of seeds that would show one as large as the mean (docs/statistics.md).
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kdrun.differences import (
    BETTER,
    IDENTICAL,
    LEVEL,
    MARGIN,
    MORE,
    MOST_SEEDS,
    SINGLE,
    SMALL,
    WELCH,
    WORSE,
    Difference,
    read_difference,
)
from kdrun.measures import measure
from kdrun.parts import against, headline_epoch
from kdrun.present.results import is_points, p_text, signed
from kdrun.present.units import count_of, roughly

Summary = Mapping[str, Any]
SEEDS = ("seed", "seeds")
TOO_MANY = f"so small an effect beside this spread is not worth settling (more than {MOST_SEEDS} seeds)"


def margin_of(metric: str | None, typed: float | None = None) -> float | None:
    """The smallest difference of a metric that matters, in the unit of records: what the config says (`margin`), else half a point of a
    share; None where neither is known."""
    return typed if typed is not None else MARGIN if is_points(metric) else None


def amount(value: float, metric: str | None, sign: bool = True) -> str:
    """`+1.91 points`, `-0.0312 bits per byte`, or in the unit of the metric; without a sign `1.91 points`."""
    text, shown = signed(value, metric), measure(metric)
    unit = "points" if shown.points else shown.label if shown.unit == "bits" else ""
    return f"{text if sign else text.lstrip('+-')} {unit}".rstrip()


def evidence(found: Difference, metric: str | None) -> str:
    """`95 % interval -1.01 to +4.84, p = 0.145; paired t, n = 5 seeds`"""
    low, high = (signed(value, metric) for value in found.interval)
    p = f"p {p_text(found.p)}" if found.p < 0.001 else f"p = {p_text(found.p)}"
    if found.comparisons > 1:
        p += f" by Holm over {found.comparisons} comparisons"
    looks = ""
    if found.level != LEVEL:  # of seeds=auto, see kdrun.looks
        looks, p = " of all looks", f"{p} ({p_text(found.level)} needed)"
    return f"95 % interval{looks} {low} to {high}, {p}; {method_text(found)} seeds"


def method_text(found: Difference) -> str:
    """`paired t, n = 5`, `Welch's t, n = 3 and 5`"""
    return f"{found.method}, n = {' and '.join(map(str, found.counts)) if found.method == WELCH else found.n}"


def comparison(found: Difference, metric: str | None, over: str, subject: str = "Distillation") -> str:
    """One sentence that says what a difference shows. over: what was subtracted; subject: what may have helped."""
    points = f"{amount(found.mean, metric)} over {over}{'' if found.better == MORE else ', less is better'}"
    margin = margin_of(metric, found.margin)
    decision = found.decision(margin)
    if decision == SINGLE:
        return f"{subject}: {points}, one seed, which says nothing about chance (use seeds=5)."
    if found.identical:
        return f"{IDENTICAL.capitalize()}: {points}, {found.n} seeds."
    head = {
        BETTER: f"{subject} helped",
        WORSE: f"{subject} hurt",
        SMALL: f"No difference larger than {amount(margin or 0.0, metric, sign=False)}",
    }.get(decision, "Undecided")
    return f"{head}: {points} ({evidence(found, metric)})."


def visible(found: Difference, metric: str | None) -> str:
    """What the seeds of an undecided comparison could have shown."""
    return f"These seeds could have shown {amount(found.visible, metric, sign=False)} or more (80 % power)."


def decision_text(found: Difference, metric: str | None) -> str:
    """The decision in a few words: `better`, `undecided: could have shown 4.10 points`, `no difference larger than 0.50 points`."""
    margin = margin_of(metric, found.margin)
    decision = found.decision(margin)
    if found.identical:
        return IDENTICAL
    if decision == SMALL:
        return f"no difference larger than {amount(margin or 0.0, metric, sign=False)}"
    if decision in (BETTER, WORSE):
        return decision
    if decision == SINGLE:
        return "one seed says nothing about chance"
    seen = "" if found.visible is None else f": could have shown {amount(found.visible, metric, sign=False)}"
    return f"undecided{seen}"


def verdict(summary: Summary) -> str:
    """A few sentences that a reader can hold against the numbers."""
    metric, arms = summary.get("metric"), summary["arms"]
    found = primary(summary)
    if found is None:
        arm = next(iter(arms.values()))
        figure = measure(metric).text(arm[headline_epoch(summary)]["mean"])
        return f"{arm['label']}: {figure}, {count_of(arm['n'], 'seed')}; there is nothing to compare it with."
    which = headline_epoch(summary)
    epoch = f", {which} epoch" if (summary.get("headline") or {}).get("arms") else ""
    subject = "The method" if (arms.get("student") or {}).get("transfer") else "Distillation"
    texts = [comparison(found, metric, over_text(summary) + epoch, subject)]
    if is_open(found, metric):
        texts += [visible(found, metric), settling(summary, found)]
    student, control = arms.get("student") or {}, arms.get(against(summary)) or {}
    if student.get("missing") or control.get("missing"):
        short = (f"{arm['label']} {arm['n']} of {arm['of']}" for arm in (student, control) if arm.get("missing"))
        texts.append(f"Not every seed has a result: {', '.join(short)}.")
    teacher, closed = summary.get("teacher"), summary.get("gap_closed")
    if teacher is not None and closed and closed.get(which) is None:
        gap = amount(teacher[which] - control[which]["mean"], metric)
        texts.append(f"The teacher is not clearly better than {over_text(summary)} ({gap}): there is no gap to close.")
    return " ".join(texts)


def over_text(summary: Summary) -> str:
    """What the student is held against, in a sentence: `the student alone, as many steps`."""
    label = (summary["arms"].get(against(summary)) or {}).get("label") or against(summary)
    return f"the {label}" if label.startswith("student") else label


def primary(summary: Summary) -> Difference | None:
    """The comparison that the verdict is about, at the epoch that is reported; None where there is none."""
    found = (summary.get("difference") or {}).get(headline_epoch(summary))
    return None if not found or found.get("mean") is None else read_difference(found)


def is_open(found: Difference, metric: str | None) -> bool:
    """Whether more seeds would tell more: a comparison of several seeds that decides nothing."""
    return not found.identical and found.decision(margin_of(metric, found.margin)) not in (BETTER, WORSE, SMALL, SINGLE)


def settling(summary: Summary, found: Difference) -> str:
    """`About 19 seeds (2 min) would settle an effect of this size.` Of more than MOST_SEEDS: that it is not worth settling."""
    seeds = found.seeds_to_settle(margin_of(summary.get("metric"), found.margin))
    if seeds is None:
        return f"{TOO_MANY.capitalize()}."
    seconds = (summary.get("to_settle") or {}).get("seconds")
    return f"About {seeds} seeds{f' ({roughly(seconds)})' if seconds else ''} would settle an effect of this size."


def to_settle(summary: Summary, stages: Sequence[Mapping[str, Any]], words: Sequence[str]) -> dict[str, Any] | None:
    """{"seeds", "seconds", "command"} of the run that would settle an open verdict: seconds of the seeds that it adds, as
    measured here, None where that is not known. None where nothing is open. words: the overrides of the run."""
    found, metric = primary(summary), summary.get("metric")
    if found is None or not is_open(found, metric):
        return None
    seeds = found.seeds_to_settle(margin_of(metric, found.margin))
    if seeds is None:
        return None
    one = seconds_of_a_seed(stages)
    others = [word for word in words if word.lstrip("+").partition("=")[0] not in SEEDS]
    command = shlex.join(["kdrun", *others, f"seeds={seeds}"])
    return {"seeds": seeds, "seconds": None if one is None else (seeds - found.n) * one, "command": command}


def seconds_of_a_seed(stages: Sequence[Mapping[str, Any]]) -> float | None:
    """What one more seed takes: for each role that every seed has a stage of, the mean seconds of its stages. A stage that all
    seeds share, such as a teacher, costs nothing more; of stages that ran side by side, each costs its part of the time."""
    by_role: dict[str, dict[str, float]] = {}
    for stage in stages:
        cost = stage.get("cost") or {}
        if cost.get("seconds") is not None:
            by_role.setdefault(stage["role"], {})[stage["fingerprint"]] = cost["seconds"] / cost.get("jobs", 1)
    several = [costs.values() for costs in by_role.values() if len(costs) > 1]
    return sum(map(statistics.fmean, several)) if several else None


def verdict_of(record: Mapping[str, Any]) -> str | None:
    """The verdict of a run record. Records of versions that resampled seeds are judged again, by Student's t."""
    summary = record.get("summary") or {}
    found = (summary.get("difference") or {}).get(headline_epoch(summary))
    if found and "method" not in found and found.get("mean") is not None and summary.get("arms"):
        settle = to_settle(summary, record.get("stages") or [], record.get("overrides") or [])
        return verdict({**summary, "to_settle": settle})
    return summary.get("verdict")


def settle_command(record: Mapping[str, Any]) -> str | None:
    """The command that would settle an open verdict of a run record."""
    summary = record.get("summary") or {}
    known = summary.get("to_settle") or to_settle(summary, record.get("stages") or [], record.get("overrides") or [])
    return known and known["command"]
