"""Figures of one run record: mean, sample deviation and n over seeds, and the seeds that have no result, with the reason.

Test figures describe; where something is chosen (the bold cell of a column), the validation mean does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from kdrun.differences import (
    MARGIN,
    PAIRED,
    WELCH,
    Difference,
    difference_of,
    from_moments,
    read_difference,
    read_resampled,
)
from kdrun.files import number
from kdrun.job.steps import share_text
from kdrun.measures import MEASURES
from kdrun.parts import against, gains_of, headline_epoch
from kdrun.protocol import PUBLISHED, is_published
from kdrun.records import arms_of, better_of, figure_of, metric_of, own_arm, seed_results, spread
from kdrun.tables.metric_names import (
    DIFFERENCES,
    ENERGIES,
    METRICS,
    OF_PARTS,
    ONCE,
    OVER_SAMPLES,
    WHICH,
    difference_unit,
    per_epoch,
)

Record = dict[str, Any]


@dataclass
class Measured:
    """One figure of one record.

    values      best and last (or ONCE) -> {"mean", "sd"}, None: not known; of differences with all that records say of them
    n, of       seeds with a result, and seeds of the job (of a teacher: its distinct stages, both)
    missing     seed -> {"status", "type", "message"}
    validation  mean of the same metric on validation, at the selected epoch
    unit        how it is shown, where that is not as its metric says: a difference in bits
    remark      what a reader of this figure has to know, for a footnote
    applies     False where the figure has no meaning: a teacher of a run without one, a control against itself
    """

    arm: str
    n: int = 0
    of: int = 0
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, dict[str, Any]] = field(default_factory=dict)
    validation: float | None = None
    applies: bool = True
    unit: str = ""
    remark: str = ""


def measure(record: Record, arm: str, metric: str, split: str = "test") -> Measured:
    """`metric` of `arm` in a record. arm: "student" is the strategy's own result, also where it is the student alone;
    for differences it is the control that is subtracted. split: test, or a further test set of the data, which is looked at
    with the selected epoch only."""
    if metric == "difference":
        return _difference(record, arm)
    if metric in OVER_SAMPLES:
        return _over_samples(record, arm, OVER_SAMPLES[metric])
    if metric == "gap_closed":
        return _gap_closed(record)
    if metric == "wins":
        return _wins(record, own_arm(record) if arm == "student" else arm)
    if metric in OF_PARTS or metric == "sent":
        return _of_parts(record, own_arm(record) if arm == "student" else arm, metric)
    if arm == "teacher":
        stages = list(teachers(record).values())
        found = Measured(arm, len(stages), len(stages), applies=bool(stages))
    else:
        name = own_arm(record) if arm == "student" else arm
        if is_alone(record) and name != "alone":
            return Measured(name, applies=False)
        stages = [stage for stage in stages_of(record, name).values() if stage is not None]
        n, of = _counts(record, name)
        found = Measured(name, n, of, missing=missing_seeds(record, name))
    if per_epoch(metric):
        for which in WHICH:
            found.values[which] = spread([_score(stage, split, which, metric) for stage in stages])
        if any(is_published(stage) for stage in stages if stage):
            found.remark = f"trained on all samples, validation included (data.protocol={PUBLISHED}); last epoch"
        else:
            found.validation = spread([_score(stage, "val", "best", metric) for stage in stages])["mean"]
    elif metric in ENERGIES:
        _energy(found, record, stages, metric)
    else:
        sized = metric in ("parameters", "flops")
        found.values[ONCE] = spread([number((stage if sized else stage["cost"]).get(metric)) for stage in stages])
        if sized:
            found.values[ONCE]["sd"] = None
    return found


def is_alone(record: Record) -> bool:
    """Whether this run is the student without a teacher."""
    return own_arm(record) == "alone"


def missing_seeds(record: Record, arm: str) -> dict[str, dict[str, Any]]:
    """seed -> why this arm has no result for it. An empty reason means that nobody recorded one."""
    found = arms_of(record).get(arm) or {}
    reasons, present = found.get("missing") or {}, found.get("seeds") or {}
    whole = record.get("error") or {}
    if not arms_of(record):  # the whole job has no result
        whole = {"status": record["status"], **whole}
    lacking = [str(seed) for seed in record["seeds"] if str(seed) not in present]
    return {
        seed: {key: (reasons.get(seed) or whole).get(key) for key in ("status", "type", "message")} for seed in lacking
    }


def stages_of(record: Record, arm: str) -> dict[str, Record | None]:
    """seed -> stage entry behind each result of an arm; None where the record lists no such stage.

    A stage that two arms share (plain KD of a run that is itself plain KD) is listed once, under the role that asked
    first: then it is found by its results.
    """
    summary, found = record.get("summary") or {}, {}
    for seed, result in (arms_of(record).get(arm) or {}).get("seeds", {}).items():
        own = [stage for stage in record["stages"] if str(stage["seed"]) == seed and stage["role"] != "teacher"]
        named = [stage for stage in own if stage["role"] == arm]
        same = [
            stage
            for stage in named or own
            if all(_score(stage, "test", which, summary["metric"]) == number(result.get(which)) for which in WHICH)
        ]
        found[seed] = (same or named or [None])[-1]
    return found


def teachers(record: Record) -> dict[str, Record]:
    """fingerprint -> stage entry of every teacher of a run."""
    return {stage["fingerprint"]: stage for stage in record.get("stages") or [] if stage["role"] == "teacher"}


def _score(stage: Record, split: str, which: str, metric: str) -> float | None:
    if split in ("val", "test"):
        return figure_of(stage, metric, split, which)
    return number(((stage.get("further") or {}).get(split) or {}).get(metric)) if which == "best" else None


def _counts(record: Record, arm: str) -> tuple[int, int]:
    """n and of as the record states them."""
    found = arms_of(record).get(arm) or {}
    return found.get("n", 0), found.get("of", len(record["seeds"]))


def _difference(record: Record, control: str) -> Measured:
    if is_alone(record):
        return Measured(control, applies=False)
    found = _paired(record, control)
    arms = [arms_of(record).get(arm) or {} for arm in ("student", control)]
    for which in WHICH:
        student, other = (seed_results(arm, which) for arm in arms)
        result = difference_of(student, other, better_of(record.get("summary") or {}))
        if result is not None:
            result = replace(result, margin=_margin(record))
            found.n = result.n if result.method == PAIRED else found.n
            found.values[which] = {name: value for name, value in result.as_record().items() if name != "values"}
    if (unit := difference_unit(metric_of(record))) != "points":
        found.unit = unit
    found.remark = _steps(record, control)
    return found


def _margin(record: Record) -> float | None:
    """The margin that a run's config says; None: that of the metric."""
    return (record.get("config") or {}).get("margin")


def _steps(record: Record, control: str) -> str:
    """What a reader of a difference has to know of a control that was not trained for as many steps; else nothing."""
    steps, of = ((arms_of(record).get(arm) or {}).get("steps") for arm in (control, "student"))
    text = share_text(steps, of)
    return f"the control had {text} of the student" if text else ""


def difference_in(cell: dict[str, Any], which: str) -> Difference | None:
    """The difference that a cell of a table holds for an epoch, with the margin it is judged by (half a point, where the config says none
    and it is in points); None where it holds none. Tables that resampled seeds are read by Student's t, from mean, deviation and number."""
    found = _difference_in(cell, which)
    usual = MARGIN if unit_of(cell) == "points" else None
    return found if found is None or found.margin is not None else replace(found, margin=usual)


def _difference_in(cell: dict[str, Any], which: str) -> Difference | None:
    value = cell["values"].get(which) or {}
    if cell["metric"] not in DIFFERENCES or not cell["applies"] or value.get("mean") is None:
        return None
    if cell["metric"] in OVER_SAMPLES and value.get("method") not in (PAIRED, WELCH):
        better = MEASURES[OVER_SAMPLES[cell["metric"]]].better
        return replace(read_resampled(value), better=better) if value.get("interval") else None
    return read_difference(value) if "method" in value else from_moments(value["mean"], value.get("sd"), cell["n"])


def unit_of(cell: dict[str, Any]) -> str:
    """How the figures of a cell are shown."""
    return cell.get("unit") or METRICS[cell["metric"]].unit


def _over_samples(record: Record, control: str, metric: str) -> Measured:
    if is_alone(record):
        return Measured(control, applies=False)
    found = _paired(record, control)
    differences = (record.get("summary") or {}).get("differences") or {}
    result = ((differences.get(control) or {}).get("resampled") or {}).get(metric)
    found.remark = _steps(record, control)
    if not result and metric == (record.get("summary") or {}).get("metric"):
        found = _difference(record, control)
        over = f"{MEASURES[metric].label} difference: Student's t over seeds, which have no test samples in common"
        found.remark = "; ".join(text for text in (over, found.remark) if text)
    elif result:
        kept = ("mean", "interval", "p_value", "error", "degrees", "samples", "seeds", "method", "margin")
        found.values[result.get("which", "best")] = {
            "sd": None,
            **{name: result[name] for name in kept if name in result},
        }
    return found


def _wins(record: Record, arm: str) -> Measured:
    """See job.beside.wins."""
    n, of = _counts(record, arm)
    won = (arms_of(record).get(arm) or {}).get("wins")
    found = Measured(arm, n, of, missing=missing_seeds(record, arm), applies=bool(won) or not arms_of(record))
    found.values = {which: (won or {}).get(which, {"mean": None, "sd": None}) for which in WHICH}
    return found


def _of_parts(record: Record, arm: str, metric: str) -> Measured:
    n, of = _counts(record, arm)
    found = Measured(arm, n, of, missing=missing_seeds(record, arm))
    told = gains_of(arms_of(record).get(arm) or {})
    if not told:
        found.applies = bool(arms_of(record)) and any(map(gains_of, arms_of(record).values()))
        return found
    if metric == "sent":
        found.applies = bool(told.get("bytes"))
        sent = [(told.get("bytes") or {}).get(way) for way in ("up", "down")]
        found.values[ONCE] = {"mean": None if None in sent else sum(sent), "sd": None}
        return found
    group, name = OF_PARTS[metric]
    value = (told.get(group) or {}).get(name)
    found.applies = group == "delta" or value is not None  # not every arm has a gate
    found.values["best"] = value if isinstance(value, dict) else {"mean": value, "sd": None}
    if headline_epoch(record["summary"]) != "best":
        found.remark = "figures of clients are those of the last round, by which the run is judged"
    return found


def _energy(found: Measured, record: Record, stages: list[Record], metric: str) -> None:
    """Joules of each stage, or of all that it is made from; in the footnote where they are no measurement."""
    from kdrun.accounting.formulas import total
    from kdrun.accounting.stages import Library, item_of

    library = Library([record])
    items = [item_of(stage) for stage in stages]
    amounts = [item.total if metric == "joules" else library.alone([item]) for item in items]
    found.values[ONCE] = spread([one.joules for one in amounts])
    if word := total(amounts).word:
        found.remark = f"energy: {word}"


def _gap_closed(record: Record) -> Measured:
    if is_alone(record):
        return Measured("student", applies=False)
    closed = (record.get("summary") or {}).get("gap_closed") or {}
    found = _paired(record, against(record.get("summary") or {}))
    found.arm, found.values = "student", {which: {"mean": number(closed.get(which)), "sd": None} for which in WHICH}
    return found


def _paired(record: Record, control: str) -> Measured:
    """n and missing seeds of a figure that needs both the student and a control."""
    missing = {**missing_seeds(record, control), **missing_seeds(record, "student")}
    of = len(record["seeds"])
    return Measured(control, of - len(missing), of, {which: {"mean": None, "sd": None} for which in WHICH}, missing)


def main_metric(record: Record, stage: Record) -> str:
    """The metric a stage of a run record is judged by: that of the run, or, where the stage has none of that name, its first."""
    scores, metric = stage["test"]["best"], metric_of(record)
    return metric if metric in scores else next(iter(scores))


def main_score(record: Record, stage: Record, which: str) -> float:
    """Its test figure at the selected (best) or last epoch."""
    return stage["test"][which][main_metric(record, stage)]
