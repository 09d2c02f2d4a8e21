"""What a search may look for: declared metrics, each from validation or from what the student costs. Never from test.

Checked by name before the first trial, without torch and Optuna.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdrun import kinds
from kdrun.measures import measure as shown_as
from kdrun.problems import UserError, closest, listed
from kdrun.protocol import refuse_published

MAXIMIZE, MINIMIZE = DIRECTIONS = ("maximize", "minimize")
VALIDATION, COST = "validation", "cost"
LATENCY_REPEATS = 100


class Unmeasured(Exception):
    """A finished run without a finite value of this objective; the text says why."""


@dataclass(frozen=True)
class SweepObjective:
    """A declared metric.

    kind    "validation": its epochs can be pruned by `watched`, a metric of the student's validation; or "cost"
    factor  what a value is multiplied with to be shown in `unit`
    """

    name: str
    direction: str
    kind: str
    unit: str = ""
    factor: float = 1.0
    digits: int = 4

    @property
    def watched(self) -> str:
        return "accuracy" if self.name == "gain" else self.name

    @property
    def title(self) -> str:
        return f"{'val ' if self.kind == VALIDATION else ''}{self.name}{', ' + self.unit if self.unit else ''}"

    def text(self, value: float) -> str:
        """`val accuracy 94.31 %`"""
        return f"{'val ' if self.kind == VALIDATION else ''}{self.name} {self.show(value)} {self.unit}".rstrip()

    def show(self, value: float | None) -> str:
        return "n/a" if value is None else f"{self.factor * value:,.{self.digits}f}"


def _validated(name: str, mode: str | None) -> SweepObjective:
    found, direction = shown_as(name), {"max": MAXIMIZE, "min": MINIMIZE}.get(mode, "")
    unit = found.unit if found.unit == "%" else ""
    return SweepObjective(name, direction, VALIDATION, unit, found.factor, found.digits)


DECLARED = {
    objective.name: objective
    for objective in (
        *(_validated(name, mode) for kind in kinds.shipped().values() for name, mode in kind.metrics.items()),
        SweepObjective("gain", MAXIMIZE, VALIDATION, "points", 100, 2),
        SweepObjective("parameters", MINIMIZE, COST, digits=0),
        SweepObjective("flops", MINIMIZE, COST, digits=0),
        SweepObjective("seconds", MINIMIZE, COST, "s", digits=1),
        SweepObjective("latency", MINIMIZE, COST, "ms", digits=3),
        SweepObjective("energy", MINIMIZE, COST, "J", digits=4),
    )
}


def read_objectives(
    names: Sequence[str], directions: Sequence[str] | None = None, jobs: Sequence[Any] = ()
) -> list[SweepObjective]:
    """The objectives of these names, with `directions` in place of their own where given: declared ones, and metrics that an
    installed kind of data or the config of a job (see config.compose.Job) adds.

    Raises UserError for an unknown name, one of test, one this machine cannot measure, or directions that do not fit.
    """
    word = f"hydra.sweeper.objective={names[0] if len(names) == 1 else '[' + ','.join(names) + ']'}"
    if not names:
        raise UserError("hydra.sweeper.objective: no name", f"all: {listed(DECLARED)}")
    known = {**DECLARED}
    for job in jobs:
        with job.allowing():
            known |= {
                name: _validated(name, kinds.direction(job.config, name))
                for name in names
                if name in set(kinds.metrics_of(job.config)) - {*known}
            }
    for name in names:
        if "test" in name.lower().replace("/", "_").split("_"):
            raise UserError(
                f"{word}: test figures choose nothing",
                f"a search chooses on validation or cost: {listed(DECLARED)}",
                "the test figures of the chosen run are in its record: kdrun show RUN",
            )
        if name not in known:
            plain, has = name.removeprefix("val/"), {**DECLARED, **_metrics(jobs)}
            near = f"; closest: {plain}" if plain in has else closest(plain, has)
            raise UserError(f"{word}: no objective {name!r}{near}", f"all: {listed(has)}")
    if len(set(names)) < len(names):
        raise UserError(f"{word}: the same objective twice")
    found = [known[name] for name in names]
    if "energy" in names:
        from kdrun.ledger.reader import here

        unit = "J" if here() else "J, estimate"
        found = [replace(objective, unit=unit) if objective.name == "energy" else objective for objective in found]
    if directions is None:
        for objective in found:
            if not objective.direction:
                raise UserError(
                    f"{word}: metrics.{objective.name} does not say whether more is better",
                    f"add metrics.{objective.name}.mode=max, or min",
                )
        return found
    wrong = next((direction for direction in directions if direction not in DIRECTIONS), None)
    if wrong is not None:
        raise UserError(f"hydra.sweeper.direction={wrong}: maximize or minimize{closest(wrong, DIRECTIONS)}")
    if len(directions) != len(names):
        raise UserError(f"hydra.sweeper.direction: {len(names)} needed, one for each of {', '.join(names)}")
    return [replace(objective, direction=direction) for objective, direction in zip(found, directions, strict=True)]


def _metrics(jobs: Sequence[Any]) -> dict[str, None]:
    return {name: None for job in jobs for name in kinds.metrics_of(job.config)}


def check_jobs(objectives: Sequence[SweepObjective], jobs: Sequence[Any]) -> None:
    """Raises UserError where a job of the search (see config.compose.Job) would end without one of the objectives."""
    for task, known in {(job.config["data"]["task"], kinds.metrics_of(job.config)) for job in jobs}:
        has = [*known, *(["gain"] if "accuracy" in known else [])]
        for objective in objectives:
            if objective.kind == VALIDATION:
                for job in jobs:
                    refuse_published(job.config["data"], f"hydra.sweeper.objective={objective.name}")
            if objective.kind == VALIDATION and objective.name not in has:
                raise UserError(f"hydra.sweeper.objective={objective.name}: {task} has {listed(has)}")
    if any(objective.name == "energy" for objective in objectives):
        from kdrun.ledger.reader import foreseen

        for job in jobs:
            if foreseen(job.config.get("energy"), job.config["hardware"]) is None:
                raise UserError(
                    "hydra.sweeper.objective=energy: joules will not be known: no sensor, and no constants for an estimate:",
                    f"  kdrun {' '.join(job.overrides)}",
                    "costs that are known everywhere: seconds, latency, parameters, flops",
                )
    if not any(objective.name == "gain" for objective in objectives):
        return
    for job in jobs:
        strategy = job.config["strategy"]
        if job.choices.get("strategy") == "alone" or "alone" not in (strategy.get("controls") or []):
            raise UserError(
                "hydra.sweeper.objective=gain compares with the student alone, which a trial would not have:",
                f"  kdrun {' '.join(job.overrides)}",
                "'strategy.controls=[alone]' adds it; strategy=alone has nothing to compare with",
            )


def measure(
    objectives: Sequence[SweepObjective], record: dict[str, Any], latencies: dict[str, float] | None = None
) -> list[float]:
    """One value per objective of a finished run. Raises Unmeasured where one is missing or not finite.

    latencies: those of networks that were measured before; new ones are added. Equal networks are equally fast, however
    the clock shakes: else a front of trials would be ordered by chance.
    """
    values, latencies = [], {} if latencies is None else latencies
    for objective in objectives:
        value = _latency(record, latencies) if objective.name == "latency" else _value(objective.name, record)
        if value is None or not math.isfinite(value):
            raise Unmeasured(f"no {objective.name}" if value is None else f"{objective.name} is {value}")
        values.append(float(value))
    return values


def arm(record: dict[str, Any]) -> str:
    """What the stages of the strategy's own result are called: "student", or "alone" where nothing taught it."""
    return "student" if any(stage["role"] == "student" for stage in record["stages"]) else "alone"


def _value(name: str, record: dict[str, Any]) -> float | None:
    own = _stages(record, arm(record))
    if name == "gain":
        alone = _stages(record, "alone")
        return _mean(_val(one, "accuracy") - _val(other, "accuracy") for one, other in zip(own, alone, strict=True))
    if name in ("parameters", "flops"):
        return own[0][name]
    if name == "seconds":
        return _mean(stage["cost"].get("training_seconds", stage["cost"]["seconds"]) for stage in own)
    if name == "energy":
        return _mean((stage["cost"].get("energy") or {}).get("joules") for stage in own)
    return _mean(_val(stage, name) for stage in own)


def _latency(record: dict[str, Any], known: dict[str, float]) -> float:
    """Median milliseconds of one sample through the student, which is read from the folder of its stage."""
    from kdrun.hardware.exports.load import open_network
    from kdrun.hardware.exports.measure import latency_of

    config = record["config"]
    device, threads = config["hardware"]["device"], config["hardware"]["threads"]
    key = json.dumps([config["student"]["network"], config["data"], device, threads], sort_keys=True)
    if key not in known:
        try:
            network, spec, _ = open_network(Path(_stages(record, arm(record))[0]["path"], "best.safetensors"))
        except (UserError, OSError, KeyError) as error:
            raise Unmeasured(f"no latency: {error}") from error
        known[key] = latency_of(network, spec.shape, device, threads, LATENCY_REPEATS)["p50_ms"]
    return known[key]


def _stages(record: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """The stage of this arm for every seed of the run, in order."""
    found = {stage["seed"]: stage for stage in record["stages"] if stage["role"] == role}
    missing = [seed for seed in record["seeds"] if seed not in found]
    if missing:
        raise Unmeasured(f"no {role} for seed {', '.join(map(str, missing))}")
    return [found[seed] for seed in record["seeds"]]


def _val(stage: dict[str, Any], name: str) -> float:
    value = stage["val"]["best"].get(name)
    if value is None:
        raise Unmeasured(f"no val/{name} in {stage['label']}")
    return value


def _mean(values: Any) -> float | None:
    found = list(values)
    return None if any(value is None for value in found) else statistics.fmean(found)
