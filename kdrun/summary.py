"""What a job found out: arms over seeds, paired differences, the share of the gap closed, and a verdict in words.

Test figures describe; they chose nothing. The `best` epoch was selected on validation, `last` is the last one.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

WHICH = ("best", "last")


def summarise(
    metric: str, arms: dict[str, dict[int, dict[str, Any]]], labels: dict[str, str], teachers: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """The summary of a run record.

    metric    name of the test metric, larger is better
    arms      arm -> seed -> stage record; "student" is the strategy's own result
    labels    arm -> what to call it
    teachers  seed -> record of the stage that taught it; empty if nothing taught
    """
    summary: dict[str, Any] = {"metric": metric, "split": "test", "teacher": None, "arms": {}, "verdict": None}
    for arm, records in arms.items():
        summary["arms"][arm] = _arm(metric, labels[arm], records)
    student = next(iter(arms.get("student", arms.get("alone", {})).values()), None)
    distinct = {record["fingerprint"]: record for record in teachers.values()}
    if distinct:
        first = next(iter(distinct.values()))
        teacher = {which: statistics.fmean(_test(r, which, metric) for r in distinct.values()) for which in WHICH}
        summary["teacher"] = {
            **teacher,
            "n": len(distinct),
            **{k: first[k] for k in ("learner", "parameters", "flops")},
        }
        summary["parameters_ratio"] = _ratio(first["parameters"], student["parameters"])
        summary["flops_ratio"] = _ratio(first["flops"], student["flops"])
    if "student" in arms and "alone" in arms:
        summary["difference"] = {w: difference(arms["student"], arms["alone"], w, metric) for w in WHICH}
        summary["gap_closed"] = {w: _gap_closed(summary, w) if distinct else None for w in WHICH}
    summary["verdict"] = verdict(summary)
    return summary


def _arm(metric: str, label: str, records: dict[int, dict[str, Any]]) -> dict[str, Any]:
    seeds = {
        str(seed): {
            **{which: _test(record, which, metric) for which in WHICH},
            "epoch_best": record["val"]["epoch_best"],
        }
        for seed, record in records.items()
    }
    arm: dict[str, Any] = {"label": label, "n": len(seeds), "seeds": seeds}
    for which in WHICH:
        values = [seed[which] for seed in seeds.values()]
        arm[which] = {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
    arm["seconds"] = sum(record["cost"]["seconds"] for record in records.values())
    return arm


def difference(one: dict[int, Any], other: dict[int, Any], which: str, metric: str) -> dict[str, Any]:
    """Paired by seed: mean of (one - other), sample deviation, n, and the 95 % interval of Student's t (None if n < 2)."""
    shared = sorted(set(one) & set(other))
    values = [_test(one[seed], which, metric) - _test(other[seed], which, metric) for seed in shared]
    mean = statistics.fmean(values)
    result = {"mean": mean, "n": len(values), "sd": None, "interval": None, "values": values}
    if len(values) > 1:
        from scipy.stats import t

        result["sd"] = statistics.stdev(values)
        half = float(t.ppf(0.975, len(values) - 1)) * result["sd"] / math.sqrt(len(values))
        result["interval"] = [mean - half, mean + half]
    return result


def _gap_closed(summary: dict[str, Any], which: str) -> float | None:
    """(student - alone) / (teacher - alone); None where the teacher is not better than the student alone."""
    alone, student = (summary["arms"][arm][which]["mean"] for arm in ("alone", "student"))
    gap = summary["teacher"][which] - alone
    return (student - alone) / gap if gap > 0 else None


def verdict(summary: dict[str, Any]) -> str:
    """One or two sentences that a reader can hold against the numbers."""
    if "difference" not in summary:
        arm = next(iter(summary["arms"].values()))
        return f"{arm['label']}: {_percent(arm['best']['mean'])} over {arm['n']} seed(s); nothing to compare it with."
    found = summary["difference"]["best"]
    points = f"{100 * found['mean']:+.2f} points over the student alone"
    if found["interval"] is None:
        text = f"Distillation: {points}, one seed: no statement about chance is possible (seeds=5)."
    else:
        low, high = found["interval"]
        spread = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}, n = {found['n']} seeds, paired"
        if low > 0:
            text = f"Distillation helped: {points} ({spread})."
        elif high < 0:
            text = f"Distillation hurt: {points} ({spread})."
        else:
            text = f"No clear effect: {points} ({spread}); the interval contains 0."
    closed = (summary.get("gap_closed") or {}).get("best")
    if summary["teacher"] is not None and closed is None:
        text += " The teacher is not better than the student alone: there is no gap to close."
    return text


def _test(record: dict[str, Any], which: str, metric: str) -> float:
    return record["test"][which][metric]


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None
