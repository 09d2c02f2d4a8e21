"""What a job found out: arms over seeds, paired differences, the share of the gap closed, and a verdict in words.

Test figures describe; they chose nothing. The `best` epoch was selected on validation, `last` is the last one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from kdrun import kinds
from kdrun.differences import MORE, corrected, difference_of, holm
from kdrun.job.absent import left_out
from kdrun.job.beside import wins, written
from kdrun.job.clusters import clusters_of
from kdrun.job.selection import headline_of
from kdrun.job.steps import control_of, name_steps, steps_of
from kdrun.learning.resampling import has_own_last, read_samples, resampled
from kdrun.parts import WHOLE, Part, parts_of
from kdrun.present.verdict import verdict
from kdrun.records import better_of, spread
from kdrun.score_matrix import TRANSFER, over_seeds
from kdrun.tracking.record import describe_error, status_of

WHICH = ("best", "last")


def summarise(
    metric: str,
    arms: dict[str, dict[int, dict[str, Any]]],
    labels: dict[str, str],
    teachers: dict[int, dict[str, Any]],
    seeds: Sequence[int],
    errors: Mapping[int, BaseException | Mapping[str, Any]],
    decisions: Sequence[dict[str, Any]] = (),
    against: str = "alone",
) -> dict[str, Any]:
    """The summary of a run record. A seed without a result is named as missing in its arm, and in no mean.

    metric    name of the test metric; whether more of it is better follows from the kind of data
    arms      arm -> seed -> stage record, with the "folder" it lies in; "student" is the strategy's own result
    labels    arm -> what to call it
    teachers  seed -> record of the stage that taught it; empty if nothing taught
    seeds     all seeds of the job
    errors    seed -> why it has no (or not every) result, as an exception or as a record says it
    decisions what the lab chose on validation
    against   the arm that the strategy wants the student held against; with fewer steps than the student it is not (steps.control_of)
    """
    better = better_in(arms, metric)
    summary: dict[str, Any] = {
        "metric": metric,
        "better": better,
        "split": "test",
        "teacher": None,
        "arms": {},
        "verdict": None,
    }
    summary["headline"] = headline_of(arms)
    which = summary["headline"]["which"]
    for arm, records in arms.items():
        summary["arms"][arm] = {**_arm(metric, labels[arm], records, which), "of": len(seeds)}
        summary["arms"][arm]["missing"] = {str(seed): _why(errors.get(seed)) for seed in seeds if seed not in records}
        if won := wins(records, teachers):
            summary["arms"][arm]["wins"] = won
    stages_of: dict[str, dict[int, str]] = {}
    for arm in sorted(arms, key=lambda arm: {"student": 0, "alone": 1}.get(arm, 2)):
        stages = {seed: record["fingerprint"] for seed, record in arms[arm].items()}
        same = next((other for other, theirs in stages_of.items() if stages and theirs == stages), None)
        if same:  # as plain KD of strategy=vanilla is its student, and equal compute the student alone
            summary["arms"][arm]["same_as"] = same
        stages_of[arm] = stages
    name_steps(summary["arms"])
    parts = {
        arm: {seed: record.get("results") or parts_of(record) for seed, record in records.items()}
        for arm, records in arms.items()
    }
    for arm, of_seeds in parts.items():
        if any(len(found) > 1 for found in of_seeds.values()):
            summary["arms"][arm]["several"] = over_parts(metric, of_seeds, which)
            if sizes := sizes_of(of_seeds):
                summary["arms"][arm]["sizes"] = sizes
                amounts = [record.get("trained_on") for record in arms[arm].values()]
                if None not in amounts:
                    mean = statistics.fmean(amount for amount, _ in amounts)
                    summary["arms"][arm]["trained_on"] = {"mean": mean, "unit": amounts[0][1]}
            # Else its figures are those of one network.
            if not any(WHOLE in found for found in of_seeds.values()) and "transfer" not in summary["arms"][arm]:
                alone = parts.get("alone", {})
                summary["arms"][arm]["gains"] = gains((metric, better), of_seeds, alone, arms[arm], which)
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
        if further := _further(metric, list(distinct.values())):
            summary["teacher"]["further"] = further
        # A packaged vision tower is that of the data: the same for both, trained by nobody.
        shared = min(first.get("packaged", 0), student.get("packaged", 0))
        summary["shared_parameters"] = shared
        if "sizes" not in summary["arms"].get("student", {}):  # of parts of several sizes each has a ratio of its own
            summary["parameters_ratio"] = _ratio(first["parameters"] - shared, student["parameters"] - shared)
            summary["flops_ratio"] = _ratio(first["flops"], student["flops"])
    if "student" in arms:
        summary["differences"] = differences(arms, summary["arms"], metric, which)
    if texts := written(arms, teachers, which):
        summary["written"] = texts
    if decisions:
        summary["decisions"] = list(decisions)
    against = summary["compared_with"] = control_of(summary["arms"], against)
    if against in summary.get("differences", {}):
        summary["difference"] = summary["differences"][against]
        summary["against"] = summary["arms"][against]["label"]
        if "several" not in summary["arms"]["student"]:  # of parts each has a gap of its own
            summary["gap_closed"] = {w: _gap_closed(summary, w) if distinct else None for w in WHICH}
    summary["verdict"] = verdict(summary)
    return summary


def better_in(arms: Mapping[str, Mapping[int, Mapping[str, Any]]], metric: str) -> str:
    """ "max" or "min": which is better of the test metric of these arms."""
    records = (record for of_seeds in arms.values() for record in of_seeds.values())
    return kinds.better(next((record.get("task") for record in records), None), metric)


def _why(error: BaseException | Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(error, BaseException):
        return {"status": status_of(error), **describe_error(error)}
    return {"status": "failed", "type": "", "message": "not run yet", **(error or {})}


def _arm(metric: str, label: str, records: dict[int, dict[str, Any]], headline: str) -> dict[str, Any]:
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
        arm[which] = spread(values)
    parts = {name for record in records.values() for name in record["test"][headline] if name.startswith(f"{metric}/")}
    if parts:  # of types of questions, of views; what one seed lacks has no mean
        arm["parts"] = {
            name.partition("/")[2]: spread([record["test"][headline][name] for record in records.values()])
            for name in sorted(parts)
            if all(name in record["test"][headline] for record in records.values())
        }
    if further := _further(metric, list(records.values())):
        arm["further"] = further
    if all("matrix" in record for record in records.values()):
        arm["transfer"] = _transfer(metric, list(records.values()))
    arm["seconds"] = sum(record["cost"]["seconds"] for record in records.values())
    arm["steps"] = steps_of(records)
    return arm


OTHERWISE = "perplexity"
"""What is told of a test set in which the main metric has no meaning: general texts beside answers."""


def _further(metric: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Test set beside the main one -> mean and deviation over these records, at the selected epoch, of sets that all have; where it is not of
    the metric itself, with its own "metric", and of sets that were looked at before training with "before", a mean."""
    made: dict[str, Any] = {}
    for name in sorted({name for record in records for name in record.get("further") or {}}):
        figures = [(record.get("further") or {}).get(name, {}) for record in records]
        of = metric if all(metric in one for one in figures) else OTHERWISE
        if not all(of in one for one in figures):
            continue
        made[name] = {**spread([one[of] for one in figures]), **({} if of == metric else {"metric": of})}
        known = [(record.get("before") or {}).get(name, {}).get(of) for record in records]
        if None not in known:
            made[name]["before"] = statistics.fmean(known)
    return made


def _transfer(metric: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a network that learned tasks one after another forgot and gained: {"rows", "columns", "matrix": a mean over seeds, and mean and
    deviation over seeds of the scores of score_matrix.transfer_of}."""
    form = {key: records[0]["matrix"][key] for key in ("rows", "columns")}
    figures = [record["test"]["best"] for record in records]
    scores = {name: spread([one.get(name) for one in figures]) for name in TRANSFER if name in figures[0]}
    return {**form, "matrix": over_seeds([record["matrix"] for record in records], metric), **scores}


def over_parts(metric: str, of_seeds: Mapping[int, Mapping[str, Part]], which: str) -> dict[str, Any]:
    """Name of each part that every seed has -> mean and deviation over seeds of its test metric, at an epoch."""
    names = dict.fromkeys(name for parts in of_seeds.values() for name in parts)
    values = {
        name: [parts[name].figure(metric, which=which) if name in parts else None for parts in of_seeds.values()]
        for name in names
    }
    return {name: spread(known) for name, known in values.items() if None not in known}


def sizes_of(of_seeds: Mapping[int, Mapping[str, Part]]) -> dict[str, float]:
    """Name of each part that every seed has -> its parameters, a mean over seeds; {} where all parts are of one size, or one is not known."""
    first = next(iter(of_seeds.values()), {})
    names = [name for name in first if all(name in parts for parts in of_seeds.values())]
    known = {name: [parts[name].facts.get("parameters") for parts in of_seeds.values()] for name in names}
    if any(None in sizes for sizes in known.values()) or len({tuple(sizes) for sizes in known.values()}) < 2:
        return {}
    return {name: statistics.fmean(sizes) for name, sizes in known.items()}


def gains(
    judged: tuple[str, str],
    of_seeds: Mapping[int, Mapping[str, Part]],
    alone: Mapping[int, Mapping[str, Part]],
    records: Mapping[int, dict[str, Any]],
    which: str,
) -> dict[str, Any]:
    """What a result of several parts brought these, at an epoch: each a mean over seeds with its deviation.

    judged   the test metric, and "max" or "min": which is better
    delta    avg, worst and p10 over parts of (test metric minus that of the same part alone): below 0 is negative transfer
    gate     mean trust on clean and on corrupted samples; gated: share of samples trusted less than half
    clusters of parts that a server divided: see job.clusters
    left_out of parts whose answers were left out of rounds: see job.absent
    bytes    of parts that send something: up, down, and private: what the same messages would have been with private weights
    """
    from kdrun.federation.effects import deltas

    metric, better = judged
    found: dict[str, Any] = {"delta": {}, "gate": {}, "bytes": {}}
    if clusters := clusters_of(records):
        found["clusters"] = clusters
    both = [(parts, alone[seed]) for seed, parts in of_seeds.items() if set(alone.get(seed, ())) == set(parts)]
    figures = [[{n: part.figure(metric, which=which) for n, part in side.items()} for side in pair] for pair in both]
    pairs = [deltas(*pair, better) for pair in figures]
    for name in ("avg", "worst", "p10") if pairs else ():
        values = [pair[name] for pair in pairs]
        found["delta"][name] = None if None in values else spread(values)
    facts = [part.facts for parts in of_seeds.values() for part in parts.values()]
    for name in ("gate_clean", "gate_corrupted", "gated"):
        values = [known[name] for known in facts if known.get(name) is not None]
        if values:
            found["gate"][name] = statistics.fmean(values)
    sent = [record["bytes"] for record in records.values() if record.get("bytes")]
    for name in ("up", "down", "private") if sent else ():
        values = [traffic[name] for traffic in sent]
        found["bytes"][name] = None if None in values else statistics.fmean(values)
    return {**found, "left_out": left_out(of_seeds)}


def differences(
    arms: dict[str, dict[int, dict[str, Any]]], known: dict[str, Any], metric: str, shown: str = "best"
) -> dict[str, dict[str, Any]]:
    """The student minus every other arm: {arm: {"best", "last": a Difference as records hold it, "resampled"}}.

    p values are corrected over all of them (Holm), except for arms that are the very stages of another one. known: the arms of
    the summary, which say so (`same_as`); shown: the epoch whose samples are resampled.
    """
    student, better = arms["student"], better_in(arms, metric)
    controls = [arm for arm in arms if arm != "student" and arms[arm] and student]
    tested = [arm for arm in controls if known[arm].get("same_as") not in arms]
    found: dict[str, dict[str, Any]] = {arm: {} for arm in controls}
    for which in WHICH:
        results = {arm: {seed: _test(record, which, metric) for seed, record in arms[arm].items()} for arm in arms}
        pairs = {arm: difference_of(results["student"], results[arm], better) for arm in controls}
        pairs |= corrected({arm: pairs[arm] for arm in tested})
        for arm in controls:
            same = known[arm].get("same_as")
            found[arm][which] = pairs[same if same in tested else arm].as_record()
    read = cache(read_samples)
    resampled = {arm: over_samples(student, arms[arm], shown, read) for arm in controls}
    for name in dict.fromkeys(name for one in resampled.values() for name in one):
        both = [arm for arm in tested if name in resampled[arm]]
        for arm, p in zip(both, holm([resampled[arm][name]["p_value"] for arm in both]), strict=True):
            resampled[arm][name] |= {"p_holm": p, "comparisons": len(both)}
    return {arm: {**found[arm], "resampled": resampled[arm]} for arm in controls}


def judged_within(summary: dict[str, Any], margin: float | None) -> None:
    """Puts the margin of a config (`margin`; None: that of the metric) into all differences of a summary, which are decided by it."""
    for found in summary.get("differences", {}).values() if margin is not None else ():
        for known in (*(found[which] for which in WHICH), *found["resampled"].values()):
            known["margin"] = margin


def over_samples(
    one: dict[int, Any], other: dict[int, Any], which: str, read: Callable = read_samples
) -> dict[str, Any]:
    """`resampling.resampled` of one minus other, with "which"; {} where stages kept nothing of single samples."""
    pairs = [(one[seed], other[seed]) for seed in one if seed in other]
    pairs = [pair for pair in pairs if all(record.get("folder") for record in pair)]
    if not pairs:
        return {}
    rows = [tuple(read(one["folder"], last=which == "last" and has_own_last(one)) for one in pair) for pair in pairs]
    found = resampled(rows, kinds.find(pairs[0][0]["task"]).sums)
    return {name: {**comparison, "which": which} for name, comparison in found.items()}


LEAST_GAP = 0.005
"""Half a point: the smallest gap to a teacher of which a share is told."""


def _gap(summary: dict[str, Any], which: str) -> tuple[float, float]:
    """(how much better the teacher is than the control, what that has to exceed: two standard errors of the control, half a point at least)."""
    control = summary["arms"][summary["compared_with"]]
    error = 0.0 if control[which]["sd"] is None else 2 * control[which]["sd"] / math.sqrt(control["n"])
    gap = summary["teacher"][which] - control[which]["mean"]
    return gap if better_of(summary) == MORE else -gap, max(LEAST_GAP, error)


def _gap_closed(summary: dict[str, Any], which: str) -> float | None:
    """(student - control) / (teacher - control), the control being what the verdict is over; None where the teacher is not clearly
    better than it: a share of a gap that may be nothing says nothing."""
    gap, least = _gap(summary, which)
    control, student = (summary["arms"][arm][which]["mean"] for arm in (summary["compared_with"], "student"))
    return (student - control) / (summary["teacher"][which] - control) if gap > least else None


def _test(record: dict[str, Any], which: str, metric: str) -> float:
    return record["test"][which][metric]


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None
