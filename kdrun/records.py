"""What run records say of arms and stages, as plain values: which arm is the result, figures, means over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdrun.files import number
from kdrun.measures import measure

Record = Mapping[str, Any]


def arms_of(record: Record) -> dict[str, Any]:
    return (record.get("summary") or {}).get("arms") or {}


def own_arm(record: Record) -> str:
    """The arm that is the strategy's own result: "student", or "alone" where nothing teaches."""
    target = ((record.get("config") or {}).get("strategy") or {}).get("_target_")
    if not arms_of(record) and target:  # no result yet
        return "alone" if str(target).endswith(".Alone") else "student"
    names = arms_of(record) or {stage["role"] for stage in record.get("stages") or []}
    return "alone" if "alone" in names and "student" not in names else "student"


def before_and_after(arms: Iterable[str]) -> list[str]:
    """Arms from what was there before to the result: alone, equal compute, other controls, the student."""
    order = {"alone": 0, "equal_compute": 1, "student": 3}
    return sorted(arms, key=lambda arm: order.get(arm, 2))


def metric_of(record: Record) -> str:
    """The metric a run is judged by."""
    summary, config = record.get("summary") or {}, record.get("config") or {}
    return summary.get("metric") or (config.get("trainer") or {}).get("monitor") or "accuracy"


def better_of(summary: Record) -> str:
    """ "max" or "min": which is better of the metric that a run is judged by."""
    return summary.get("better") or measure(summary.get("metric")).better


def stages_of(record: Record, role: str) -> dict[int, dict[str, Any]]:
    """seed -> finished stage of this role; of several the last one."""
    return {stage["seed"]: stage for stage in record.get("stages") or [] if stage["role"] == role}


def figure_of(stage: Record, metric: str, split: str = "test", which: str = "best") -> float | None:
    """A figure of a stage at its selected (best) or last epoch; None where it is not known."""
    figures = (stage.get(split) or {}).get(which)
    return number(figures.get(metric) if isinstance(figures, Mapping) else figures)


def mean_figure(stages: Iterable[Record], metric: str, which: str = "best") -> float | None:
    """Mean of a figure of test over the stages that have it; None where none has: a class without a test sample has no recall."""
    known = [value for stage in stages if (value := figure_of(stage, metric, which=which)) is not None]
    return statistics.fmean(known) if known else None


def steps_spent(fingerprint: str, stages: Iterable[Record]) -> float | None:
    """Optimisation steps that a result took: its own, and those of what it goes on from; of networks together a mean over those
    that count. None where the stages do not say it."""
    known = {stage.get("fingerprint"): stage for stage in stages}

    def spent(key: str | None) -> float:
        stage = known[key]
        if members := stage.get("members"):
            return statistics.fmean(spent(members[name]) for name in stage.get("counted") or members)
        return stage["cost"]["steps"] + (spent(stage["start"]) if stage.get("start") else 0)

    try:
        return spent(fingerprint)
    except KeyError:
        return None


def trained_on(fingerprint: str, stages: Iterable[Record]) -> tuple[float, str] | None:
    """(tokens or samples that a result was trained on, "tokens" or "samples"): all its networks together, each stage once, with what they
    go on from but not what taught them. None where the stages do not say it."""
    known = {stage.get("fingerprint"): stage for stage in stages}
    taught_by = {(stage.get("teacher") or {}).get("fingerprint") for stage in known.values()}
    waiting, seen = [fingerprint], dict[str, Record]()
    while waiting:
        if (stage := known.get(waiting.pop())) is None:
            return None
        if stage["fingerprint"] not in (seen | dict.fromkeys(taught_by)):
            seen[stage["fingerprint"]] = stage["cost"]
            waiting += [*(stage.get("members") or {}).values(), *filter(None, [stage.get("start")])]
    unit = "tokens" if any(cost.get("tokens") for cost in seen.values()) else "samples"
    amounts = [cost.get(unit) or 0 for cost in seen.values()]
    return (float(sum(amounts)), unit) if any(amounts) else None


def seed_results(arm: Record, which: str) -> dict[str, float]:
    """seed -> result of an arm at its best or last epoch, of seeds that have one."""
    found = {seed: number(result.get(which)) for seed, result in (arm.get("seeds") or {}).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """{"mean", "sd"}, sd the sample deviation: both None without values and where one is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "sd": None}
    several = len(known) > 1 and all(map(math.isfinite, known))
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if several else None}


def validation_of(record: Record) -> dict[str, float | None] | None:
    """`spread` over seeds of the metric on validation, at the selected epochs, of a run's own result: what runs are compared
    by. None unless every seed has a finite figure."""
    stages = [stage for stage in record.get("stages") or [] if stage["role"] == own_arm(record)]
    values = [figure_of(stage, metric_of(record), "val") for stage in stages]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return spread(known) if known and len(known) == len(values) == len(record.get("seeds") or known) else None
