"""What figures show, read from records and metrics into plain lists. Nothing here draws or imports matplotlib.

Values keep the unit of the record: accuracies are fractions. A missing number is None or left out, never 0; a seed that
did not finish keeps its status, so that a figure can show it and no mean can swallow it.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdrun.differences import MORE, Difference, read_difference
from kdrun.files import number
from kdrun.measures import MEASURES
from kdrun.parts import against, groups_of, headline_epoch, is_group, parts_of, start_of, trained_nothing
from kdrun.present.fronts import stairs
from kdrun.records import arms_of, figure_of, metric_of, own_arm, spread, stages_of
from kdrun.tracking.metrics import read_metrics
from kdrun.tracking.record import DONE, METRICS
from kdrun.tracking.registry import RunInfo

FRACTIONS = tuple(name for name, measure in MEASURES.items() if measure.factor == 100)
"""Metrics in 0..1 that people read in percent."""

CONTROLS = ("alone", "plain_kd", "equal_compute")
NOT_TERMS = ("train/loss", "train/learning_rate")
COUNTS = tuple(
    f"train/{name}" for name in ("called", "came", "clipped", "bytes_up", "bytes_down", "clusters", "collapsed")
)
"""What the rounds of a federation count beside the terms they minimise."""
COSTS = ("seconds", "parameters", "flops")
SAME = 1e-6
"""Accuracies closer than this are equal: they are float32 in a record."""


@dataclass(frozen=True)
class Trace:
    """One metric of one stage over its epochs, numbered from 0 as in metrics.jsonl.

    selected  the epoch that validation chose
    problem   None if the stage finished, else how its run or seed ended ("diverged", "running" ...)
    rounds    epochs are rounds of a federation
    """

    kind: str
    seed: int
    epochs: list[int]
    values: list[float]
    selected: int | None = None
    problem: str | None = None
    rounds: bool = False


@dataclass(frozen=True)
class Group:
    """Traces that belong together, one per seed. kind and number say how it is drawn, label what it is called.

    number  of the run among those of the figure: the same in every panel
    """

    kind: str
    label: str
    traces: list[Trace]
    number: int = 0


@dataclass(frozen=True)
class CostPoint:
    """Test accuracy over seeds, of the epoch that a run is judged by, beside what it cost. costs lacks what is not known.

    n of `of` seeds finished; sd is None for one seed. own: the result of a run's strategy, not of an arm beside it.
    number: of its run among those of the figure.
    """

    kind: str
    label: str
    mean: float
    sd: float | None
    n: int
    of: int
    costs: dict[str, float]
    own: bool = False
    number: int = 0


@dataclass(frozen=True)
class SeedPairs:
    """Test results of the same seeds with two arms. seeds: seed -> (control, student), None where there is none.

    missing     (seed, 0 for the control or 1 for the student, status) of every result that is not there
    difference  student minus control by Student's t, whatever version wrote the record; None where there is none
    """

    label: str
    control: str
    student: str
    seeds: dict[int, tuple[float | None, float | None]]
    missing: list[tuple[int, int, str]] = field(default_factory=list)
    difference: Difference | None = None


def labels_of(record: dict[str, Any]) -> dict[str, str]:
    """Stage kind -> what to call it."""
    labels = {stage["role"]: stage["role"].replace("_", " ") for stage in record.get("stages") or []}
    for kind, stages in ((kind, stages_of(record, kind)) for kind in list(labels)):
        if kind not in ("student", *CONTROLS):
            learners = {stage.get("learner") for stage in stages.values()} - {None, kind}
            labels[kind] = " ".join([labels[kind], *sorted(learners)])
    return labels | {arm: entry.get("label") or arm for arm, entry in arms_of(record).items()}


def in_order(kinds: Iterable[str]) -> list[str]:
    """Teacher, what stands between, controls, student: later ones are drawn on top."""
    first = {"teacher": 0, **{kind: 2 for kind in CONTROLS}, "student": 3}
    return sorted(dict.fromkeys(kinds), key=lambda kind: first.get(kind, 1))


def numbers_of(record: dict[str, Any]) -> dict[str, int]:
    """Stage kind -> its number in every figure of a run; those of student and student alone (0 and 1) are theirs."""
    named = ("teacher", "student", *CONTROLS)
    kinds = dict.fromkeys((*arms_of(record), *(stage["role"] for stage in record.get("stages") or [])))
    return {kind: place for place, kind in enumerate((kind for kind in kinds if kind not in named), 2)}


# curves


def read_traces(run: RunInfo) -> dict[str, list[Trace]]:
    """Metric name -> its traces: `val/<metric>`, `train/loss` and the raw terms of the objective. What a federation counts (clients that
    were called, bytes) is no term and is left out.

    A training value is the mean over the steps of its epoch: rows are means since the row before.
    """
    if parts := getattr(run, "parts", ()):  # one run for each seed
        together: dict[str, list[Trace]] = defaultdict(list)
        for part in parts:
            for name, traces in read_traces(part).items():
                together[name] += traces
        return together
    record = run.record or {}
    wanted = f"val/{metric_of(record)}"
    stages = {stage["label"]: stage for stage in record.get("stages") or []}
    epochs: dict[tuple[str, str], dict[int, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    steps: dict[str, int] = {}
    for row in read_metrics(run.dir / METRICS):
        label, epoch, since = row["stage"], row.get("epoch"), row["step"] - steps.get(row["stage"], 0)
        training = [name for name in row if name.startswith("train/")]
        if training:
            steps[label] = max(row["step"], steps.get(label, 0))
        for name in (
            *([wanted] if wanted in row else []),
            *(training if since > 0 else []),
        ):  # a round has both in one row
            if epoch is not None and number(row[name]) is not None:
                epochs[name, label][epoch].append((since, row[name]))
    found: dict[str, list[Trace]] = defaultdict(list)
    for (name, label), values in epochs.items():
        if name.endswith("_weighted") or name in ("train/learning_rate", *COUNTS):
            continue
        kind, _, seed = label.partition("/seed=")
        stage, order = stages.get(label), sorted(values)
        means = [values[epoch][-1][1] if name == wanted else _weighted(values[epoch]) for epoch in order]
        selected = (stage.get("val") or {}).get("epoch_best") if stage else None
        problem = None if stage else _ending(run, kind, seed)
        rounds = (COUNTS[0], label) in epochs
        found[name].append(Trace(kind, int(seed or 0), order, means, selected, problem, rounds))
    return found


def _weighted(values: list[tuple[int, float]]) -> float:
    return sum(weight * value for weight, value in values) / sum(weight for weight, _ in values)


def _ending(run: RunInfo, kind: str, seed: str) -> str:
    arm = arms_of(run.record or {}).get(kind) or {}
    status = ((arm.get("missing") or {}).get(seed) or {}).get("status") or run.status
    return "unfinished" if status == DONE else status


def run_groups(run: RunInfo) -> dict[str, list[Group]]:
    """Metric name -> one group per stage kind of one run; of networks together one per arm, a mean over parts."""
    labels, numbers, result = labels_of(run.record or {}), numbers_of(run.record or {}), {}
    for name, traces in _metrics_in_order(read_traces(run)):
        if means := _over_parts(run.record or {}, traces):
            several = {
                kind for kind, seeds in groups_of(run.record or {}).items() if any(len(m) > 1 for m in seeds.values())
            }
            result[name] = [
                Group(
                    k,
                    labels[k] + (", mean of parts" if k in several else ""),
                    [t for t in means if t.kind == k],
                    numbers.get(k, 0),
                )
                for k in in_order(trace.kind for trace in means)
            ]
            continue
        kinds = in_order(trace.kind for trace in traces)
        result[name] = [
            Group(k, labels.get(k, k), [t for t in traces if t.kind == k], numbers.get(k, 0)) for k in kinds
        ]
    return result


def _over_parts(record: dict[str, Any], traces: list[Trace]) -> list[Trace]:
    """A trace per arm and seed of networks together: at each epoch the mean over the parts that count. It has no epoch that
    validation selected, since each part has its own."""
    known, found = {(trace.kind, trace.seed): trace for trace in traces}, []
    for arm, seeds in groups_of(record).items():
        for seed, parts in seeds.items():
            counted = [known.get((part.stage["role"], part.stage["seed"])) for part in parts.values() if part.counted]
            if not counted or None in counted:
                continue
            mean = mean_line([dict(zip(trace.epochs, trace.values, strict=True)) for trace in counted])
            found.append(Trace(arm, seed, list(mean), list(mean.values())))
    return found


def mean_line(lines: Sequence[dict[int, float]]) -> dict[int, float]:
    """Epoch -> mean of lines (epoch -> value), over the epochs that all of them have."""
    epochs = sorted(set.intersection(*map(set, lines))) if lines else []
    return {epoch: statistics.fmean(line[epoch] for line in lines) for epoch in epochs}


def runs_groups(runs: Sequence[tuple[str, RunInfo]]) -> dict[str, list[Group]]:
    """Metric name -> one group per run: the strategy's own result."""
    result: dict[str, list[Group]] = defaultdict(list)
    for place, (label, run) in enumerate(runs):
        own = own_arm(run.record or {})
        for name, traces in _metrics_in_order(read_traces(run)):
            own_traces = [trace for trace in traces if trace.kind == own]
            own_traces = own_traces or [trace for trace in _over_parts(run.record or {}, traces) if trace.kind == own]
            if own_traces:
                result[name].append(Group("run", label, own_traces, place))
    return dict(_metrics_in_order(result))


def _metrics_in_order(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """Validation, the whole loss, then its terms; a single term is the loss itself and is left out."""
    terms = [name for name in found if name.startswith("train/") and name not in NOT_TERMS]
    first = [name for name in found if name.startswith("val/")] + ["train/loss"]
    names = first + (sorted(terms) if len(terms) > 1 else [])
    return [(name, found[name]) for name in names if name in found]


# cost


def run_points(run: RunInfo) -> list[CostPoint]:
    """One point per stage kind of a run that has a test result; of networks together one per arm, and for each part where parts are of
    several sizes."""
    record = run.record or {}
    stages = record.get("stages") or []
    kinds = list(groups_of(record)) or [stage["role"] for stage in stages]
    if any(stage.get("tasks") for stage in stages):  # networks of single tasks are steps on the way to those of arms
        kinds = [kind for kind in kinds if kind in arms_of(record)]
    labels = labels_of(record)
    points = (point for kind in in_order(kinds) for point in _points(record, kind, labels[kind]))
    numbers = numbers_of(record)
    return [replace(found, number=numbers.get(found.kind, 0)) for found in points if found is not None]


def _points(record: dict[str, Any], kind: str, label: str) -> list[CostPoint | None]:
    groups = groups_of(record)
    if (
        "sizes" not in (arms_of(record).get(kind) or {}) or kind not in groups
    ):  # clients are parts of one stage, with one cost
        return [point(record, kind, label)]
    parts = next(iter(groups[kind].values()))
    found = [point(record, part.stage["role"], f"{label}: {name}") for name, part in parts.items()]
    return [one and replace(one, kind=kind, of=arms_of(record)[kind].get("of") or one.of) for one in found]


def runs_points(runs: Sequence[tuple[str, RunInfo]]) -> list[CostPoint]:
    """The own result of every run, and each distinct teacher and student alone beside them, once."""
    points, seen = [], set()
    for place, (label, run) in enumerate(runs):
        record = run.record or {}
        own = own_arm(record)
        for kind in dict.fromkeys(("teacher", "alone", own)):
            prints = frozenset(stage.get("fingerprint") for stage in stages_of(record, kind).values())
            name = label if kind == own else "student alone" if kind == "alone" else kind
            found = point(record, kind, name)
            if found is not None and (kind == own or prints not in seen):
                drawn = "run" if kind == own else {"alone": "beside"}.get(kind, kind)
                points.append(replace(found, kind=drawn, own=kind == own, number=place))
                seen.add(prints)
    return points


def point(record: dict[str, Any], kind: str, label: str) -> CostPoint | None:
    """Test result and cost of one kind of stage over its seeds; None where no seed has a result."""
    metric, stages = metric_of(record), stages_of(record, kind)
    which = headline_epoch(record.get("summary") or {})
    values = [value for stage in stages.values() if (value := result_of(stage, "test", metric, which)) is not None]
    if not values:
        return None
    arm, found = arms_of(record).get(kind) or {}, spread(values)
    of = arm.get("of") or len(values) + len(arm.get("missing") or {})
    costs = {name: cost for name in COSTS if (cost := _cost(record, stages.values(), name)) is not None}
    return CostPoint(kind, label, found["mean"], found["sd"], len(values), of, costs)


def result_of(stage: dict[str, Any], split: str, metric: str, which: str = "best") -> float | None:
    """A finite figure of a stage, or None."""
    value = figure_of(stage, metric, split, which)
    return value if value is not None and math.isfinite(value) else None


def _cost(record: dict[str, Any], stages: Iterable[dict[str, Any]], name: str) -> float | None:
    """Mean over seeds; None unless every seed tells it."""
    costs = [_seconds(record, stage) if name == "seconds" else number(stage.get(name)) for stage in stages]
    return statistics.fmean(costs) if costs and all(costs) else None


def _seconds(record: dict[str, Any], stage: dict[str, Any]) -> float | None:
    """Training time of a stage and of all that it needs: its teachers, what it starts from, members, each once. None where the
    record does not hold one of them, or its time."""
    known = {one.get("fingerprint"): one for one in record.get("stages") or []}
    needed, left = {}, [stage]
    while left:
        one = left.pop()
        if one is None:
            return None
        if one["label"] not in needed:
            needed[one["label"]] = one
            left += [known.get(name) for name in _needs(record, one)]
    times = [training_seconds(one) for one in needed.values() if not trained_nothing(one)]
    return None if not times or None in times else sum(times)


def _needs(record: dict[str, Any], stage: dict[str, Any]) -> list[str]:
    """Fingerprints of the stages that this one was made from."""
    if is_group(stage):
        stages = record.get("stages") or []
        parts = parts_of(stage, stages).values()
        starts = [start for part in parts if (start := start_of(part, stages))]
        return [*stage["members"].values(), *(start["fingerprint"] for start in starts)]
    teacher = stage.get("teacher") or {}
    names = [
        teacher.get("fingerprint"),
        *(one.get("fingerprint") for one in teacher.get("also") or ()),
        stage.get("start"),
    ]
    return [name for name in names if name]


def training_seconds(stage: dict[str, Any]) -> float | None:
    cost = stage.get("cost") or {}
    return number(cost.get("training_seconds", cost.get("seconds")))


def pareto(points: Sequence[CostPoint], cost: str, better: str = MORE) -> list[CostPoint]:
    """Points that no other beats: none is both at most as expensive and at least as good. better: "max" or "min" of the metric."""
    sign = 1 if better == MORE else -1
    known = (point for point in points if cost in point.costs)
    return stairs(known, lambda point: (point.costs[cost], sign * point.mean), SAME)


# seeds


def pairs_of(run: RunInfo, label: str | None = None) -> SeedPairs | None:
    """The student beside its first control (alone, if it is there), seed by seed; None if there are no two arms."""
    summary = (run.record or {}).get("summary") or {}
    arms = summary.get("arms") or {}
    control = next((arm for arm in (against(summary), *CONTROLS, *arms) if arm in arms and arm != "student"), None)
    if "student" not in arms or control is None:
        return None
    values: dict[int, list[float | None]] = defaultdict(lambda: [None, None])
    missing = []
    for side, name in enumerate((control, "student")):
        arm = arms[name]
        for seed, result in (arm.get("seeds") or {}).items():
            values[int(seed)][side] = number(result.get(headline_epoch(summary)))
        for seed, entry in (arm.get("missing") or {}).items():
            values[int(seed)][side] = None
            missing.append((int(seed), side, entry.get("status") or "missing"))
    found = (summary.get("differences") or {}).get(control) or (
        summary.get("difference") if control == against(summary) else None
    )
    difference = (found or {}).get(headline_epoch(summary))
    return SeedPairs(
        label or run.id,
        arms[control].get("label") or control,
        arms["student"].get("label") or "student",
        {seed: (values[seed][0], values[seed][1]) for seed in sorted(values)},
        missing,
        None if number((difference or {}).get("mean")) is None else read_difference(difference),
    )
