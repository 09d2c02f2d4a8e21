"""Results as text: figures with their deviation, and rows of what a record says of arms, differences and stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from kdrun.differences import PAIRED, read_difference
from kdrun.files import number
from kdrun.measures import measure
from kdrun.parts import against, has_last, headline_epoch, is_group, trained_nothing
from kdrun.present.units import MISSING, duration, share
from kdrun.records import arms_of, before_and_after


def seeds_text(seeds: list[int]) -> str:
    """`0-4` for neighbours, else `3,7`."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds)) or MISSING


def figure_text(value: Any, metric: str | None = None) -> str:
    """`97.41 ± 0.32` of a number or {"mean", "sd"}, without the unit, for a column whose head has it. None: n/a."""
    mean, deviation = (value.get("mean"), value.get("sd")) if isinstance(value, dict) else (value, None)
    mean, deviation, shown = number(mean), number(deviation), measure(metric)
    if mean is None:
        return MISSING
    return shown.figure(mean) + ("" if deviation is None else f" ± {shown.figure(deviation)}")


def percent(value: Any, metric: str | None = None) -> str:
    """`97.41 ± 0.32 %`; a loss or an unknown metric keeps its own unit. None: n/a."""
    text = figure_text(value, metric)
    return f"{text} %" if measure(metric).unit == "%" and text != MISSING else text


def is_points(metric: str | None) -> bool:
    """Whether differences of a metric are told in points (hundredths). None: the metric of a run that does not say."""
    return measure(metric).points


def distinct(arms: dict[str, Any]) -> dict[str, Any]:
    """The arms without those that are the very stages of another one (`same_as`)."""
    return {name: arm for name, arm in arms.items() if arm.get("same_as") not in arms}


def arm_label(arms: dict[str, Any], name: str) -> str:
    """`student alone`; with the names of arms that are the same stages: `student alone (= student alone, equal compute)`."""
    also = [arm.get("label") or other for other, arm in arms.items() if arm.get("same_as") == name]
    label = arms[name].get("label") or name
    return f"{label} (= {'; '.join(also)})" if also else label


def arm_text(record: dict[str, Any], arm: str) -> str:
    """What an arm of a run is called."""
    return (arms_of(record).get(arm) or {}).get("label") or arm


ALONE = "alone"


def _further_rows(
    entry: dict[str, Any], metric: str | None, text: Callable[..., str]
) -> list[tuple[str, str, str, str]]:
    """Rows of test sets beside the main one; of a score of their own its name, and what it was before training."""
    rows = []
    for test, value in (entry.get("further") or {}).items():
        of = value.get("metric", metric)
        label = f"  on {test}" + (f", {measure(of).label}" if of != metric else "")
        before = f" (before: {text(value['before'], of)})" if "before" in value else ""
        rows.append((label + before, text(value, of), "-", ""))
    return rows


def result_rows(summary: dict[str, Any], text: Callable[..., str] = percent) -> list[tuple[str, str, str, str]]:
    """(what, best epoch, last epoch, n) for the teacher, what takes no network, each arm (with its further test sets) and the
    gap closed. text: how a figure is written, with or without its unit."""
    metric, rows = summary.get("metric"), []
    if teacher := summary.get("teacher"):
        name = f"teacher {teacher.get('learner') or ''}".strip()
        rows.append((name, *(text(teacher.get(w), metric) for w in ("best", "last")), str(teacher.get("n", 1))))
        rows += _further_rows(teacher, metric, text)
    for name, scores in (summary.get("baselines") or {}).items():
        if metric in scores:
            rows.append((name, *2 * [text(scores[metric], metric)], ""))
    arms = summary.get("arms") or {}
    for name in before_and_after(distinct(arms)):
        arm = arms[name]
        last = text(arm.get("last"), metric) if has_last(arm) else "-"
        rows.append((arm_label(arms, name), text(arm.get("best"), metric), last, count_text(arm)))
        rows += _further_rows(arm, metric, text)
    control = against(summary)
    if "gap_closed" in summary and (control == ALONE or "compared_with" in summary):
        closed = summary["gap_closed"] or {}
        name = "gap closed" if control == ALONE else "gap closed, over as many steps"
        rows.append((name, share(closed.get("best")), share(closed.get("last")), ""))
    return rows


def headline_text(summary: dict[str, Any]) -> str:
    """`last epoch: on 201 validation samples the best epoch does not stand out: 0.80 points better than the last, 8.59 needed`: by which
    epoch a run is judged, and why; nothing where it has one epoch, or is of the time when that was the best."""
    found = summary.get("headline") or {}
    return f"{headline_epoch(summary)} epoch: {found['why']}" if found.get("arms") else ""


def looks_text(summary: dict[str, Any]) -> str:
    """`looked at after 3 and 5 of at most 20 seeds`, with seeds=auto; else nothing."""
    found = summary.get("sequential")
    if not found:
        return ""
    made = " and ".join(", ".join(str(look["seeds"]) for look in found["made"]).rsplit(", ", 1))
    return f"looked at after {made} of at most {found['looks'][-1]} seeds, {100 * found['overall']:.0f} % error of all looks"


def judged_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What a reader of the verdict has to know of epochs and seeds: (name, text)."""
    found = (("judged by", headline_text(summary)), ("seeds", looks_text(summary)))
    return [(name, text) for name, text in found if text]


def count_text(arm: dict[str, Any]) -> str:
    """`5` seeds, or `4 of 5` where some are missing."""
    n, of = arm.get("n", MISSING), arm.get("of", arm.get("n", MISSING))
    return str(n) if n == of else f"{n} of {of}"


def missing_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """("seed 3", "student, distilled: diverged FloatingPointError: loss is nan") for every result that is not there."""
    return [
        (f"seed {seed}", f"{arm.get('label') or name}: {reason_text(reason)}")
        for name, arm in (summary.get("arms") or {}).items()
        for seed, reason in (arm.get("missing") or {}).items()
    ]


def vary_text(vary: Sequence[str] | None) -> str:
    """`teacher and split differ with it`: what differs from seed to seed beside the student's seed; nothing where that is all."""
    others = [name for name in vary or () if name != "student"]
    return f"{' and '.join(others)} {'differs' if len(others) == 1 else 'differ'} with it" if others else ""


def seeds_of(record: dict[str, Any]) -> str:
    """`0-4`, or `0-4, teacher and split differ with it`."""
    more = vary_text((record.get("config") or {}).get("vary"))
    return seeds_text(record.get("seeds") or []) + (f", {more}" if more else "")


def seen_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """("teacher resnet8", "1,146 samples") of each learner, where they were trained on different samples."""
    order = {"teacher": 0, "student": 2}
    learners = sorted(
        (summary.get("seen") or {}).items(), key=lambda item: order.get(item[0], 1 if "." in item[0] else 3)
    )
    return [(f"{key.removeprefix('assistants.')} {seen['name']}", seen_text(seen)) for key, seen in learners]


def seen_text(seen: dict[str, Any]) -> str:
    """`1,146 samples, 200 of them labelled (shown 6,912 with and 27,648 without), crop 4, flip`"""
    more = [f"{seen['labelled']:,} of them labelled"] if "labelled" in seen else []
    if shown := seen.get("shown"):
        more[0] += f" (shown {shown['labelled']:,} with and {shown['unlabelled']:,} without)"
    return ", ".join([f"{seen['samples']:,} samples", *more, *([seen["augment"]] if "augment" in seen else [])])


def reason_text(reason: dict[str, Any]) -> str:
    """`diverged FloatingPointError: loss is nan`: status, type and first line of the message, as far as they are known."""
    kind = f"{reason.get('status') or ''} {reason.get('type') or ''}".strip() or MISSING
    message = (reason.get("message") or "").strip().partition("\n")[0]
    return f"{kind}: {message}" if message else kind


def error_text(error: dict[str, Any] | None) -> str:
    """`ValueError: a message (file.py:3 in f)`; nothing where there is no error."""
    if not error:
        return ""
    return f"{error.get('type')}: {error.get('message')}" + (f" ({error['where']})" if error.get("where") else "")


DIFFERENCE_HEAD = ("difference", "95 % interval", "p", "better", "n")
"""Columns of `difference_rows` after the first."""
DIFFERENCE_NOTE = (
    "Student's t over pairs of seeds (Welch's where none are shared); over samples too: two-level bootstrap; p: by Holm over "
    "all controls; better: share of pairs of any two seeds in which the student is better; n: seeds"
)


def difference_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """(student minus a control, difference, interval, p, share of pairs in which the student is better, n): best and last epoch.

    Where a stage keeps what it says of single samples there is a further row per metric, over seeds and samples together (of one
    seed, and of records that do not say how many, over samples alone).
    Differences of single parts are in tables of their own (report.parts).
    """
    metric, arms = summary.get("metric"), summary.get("arms") or {}
    found = summary.get("differences") or ({"alone": summary["difference"]} if summary.get("difference") else {})
    rows: list[tuple[str, ...]] = []
    for control, pair in found.items():
        if (arms.get(control) or {}).get("same_as") in arms:  # a difference of 0, or one that stands there already
            continue
        label = (arms.get(control) or {}).get("label") or control
        name = f"minus {label}"
        epochs = ("best", "last") if has_last(arms.get("student") or {}) else ("best",)
        texts = {which: difference_texts(pair[which], metric) for which in epochs if pair.get(which)}
        if len(texts) == 2 and texts["best"] == texts["last"]:
            rows.append((name, *texts["last"]))  # one epoch: there was nothing to select
        else:
            rows += [(f"{name}, {which}", *text) for which, text in texts.items()]
        for metric_name, over in (pair.get("resampled") or {}).items():
            if "/" not in metric_name:
                samples = f"{measure(metric_name).label} over {over['samples']:,} samples"
                text = f"{name}, {over.get('which', 'best')}: {samples}{' too' if over.get('seeds') else ''}"
                rows.append((text, *resampled_texts(over, metric_name)))
    return rows


def difference_texts(found: dict[str, Any], metric: str | None) -> tuple[str, str, str, str, str]:
    """(mean and deviation, interval, p, share of pairs in which the first is better, n) of a difference over seeds, as records
    hold it. Those of earlier versions have Student's t as well: see read_difference."""
    if number(found.get("mean")) is None:
        return MISSING, MISSING, MISSING, MISSING, str(found.get("n", MISSING))
    known = read_difference(found)
    mean = signed(known.mean, metric) + ("" if known.sd is None else f" ± {signed(known.sd, metric)[1:]}")
    n = str(known.n) if known.method == PAIRED else f"{known.counts[0]} and {known.counts[1]}"
    return mean, interval_text(known.interval, metric), p_text(known.p), share(known.improvement), n


def resampled_texts(over: dict[str, Any], metric: str) -> tuple[str, str, str, str, str]:
    """The same of a difference over samples, and over seeds as well where the record says of how many."""
    p = over.get("p_holm", over["p_value"])
    return (
        signed(over["mean"], metric),
        interval_text(over["interval"], metric),
        p_text(p),
        "",
        str(over.get("seeds", 1)),
    )


def p_text(value: Any) -> str:
    """`0.032`, `< 0.001`"""
    value = number(value)
    return MISSING if value is None or not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def signed(value: Any, metric: str | None) -> str:
    """`+2.27` points of a percentage; a loss or an unknown metric in its own unit."""
    value = number(value)
    if value is None:
        return MISSING
    return f"{100 * value:+.2f}" if is_points(metric) else f"{value:+.4f}"


TRANSFER_NOTE = (
    "forgetting: best of a task before the last minus its score at the end; backward: score at the end minus that when it was learned; "
    "forward: score before it is learned minus that of random weights"
)


def transfer_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """(arm, average after the last task, forgetting, backward transfer, forward transfer) of arms that learned tasks one after another, as
    mean and deviation over seeds; none where there is none."""
    metric, rows = summary.get("metric"), []
    for name in before_and_after(summary.get("arms") or {}):
        arm = summary["arms"][name]
        if transfer := arm.get("transfer"):
            scores = [
                figure_text(found, metric) if (found := transfer.get(score)) else ""
                for score in ("forgetting", "backward_transfer", "forward_transfer")
            ]
            rows.append((arm["label"], figure_text(arm["best"], metric), *scores))
    return rows


def task_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """(arm, score of each task after the last one, a mean over seeds); the first row has the names of the tasks."""
    metric, rows = summary.get("metric"), []
    for name in before_and_after(summary.get("arms") or {}):
        arm = summary["arms"][name]
        if (transfer := arm.get("transfer")) and transfer["matrix"]:
            rows = rows or [(measure(metric).title, *transfer["columns"])]
            rows.append((arm["label"], *(measure(metric).figure(value) for value in transfer["matrix"][-1])))
    return rows


def transfer_head(summary: dict[str, Any]) -> tuple[str, ...]:
    return (measure(summary.get("metric")).title, "average", "forgetting", "backward", "forward")


def interval_text(interval: Any, metric: str | None) -> str:
    return f"{signed(interval[0], metric)} to {signed(interval[1], metric)}" if interval else MISSING


def stage_rows(stages: list[dict[str, Any]], metric: str) -> list[tuple[str, ...]]:
    """(stage, fingerprint, where its result comes from, validation, test, time): figures are `best / last` of `metric`, in the
    unit that the head of the column has."""
    rows = []
    for stage in stages:
        figures = [_best_and_last(stage.get(split), metric) for split in ("val", "test")]
        cost = stage.get("cost") or {}
        fingerprint = str(stage.get("fingerprint") or MISSING)[:8]
        if trained_nothing(stage):  # the selected epochs are all there is
            figures = [figure.partition(" / ")[0] for figure in figures]
            made_of = f"{len(stage['members'])} networks" if is_group(stage) else f"{len(stage['tasks'])} tasks"
            rows.append((stage["label"], fingerprint, made_of, *figures, "-"))
            continue
        rows.append((stage["label"], fingerprint, source_text(stage), *figures, duration(cost.get("seconds"))))
    return rows


def source_text(stage: dict[str, Any]) -> str:
    """`trained`, `stored` (by an earlier run), `continued`, or `loaded`: weights from a file that were only evaluated."""
    source = stage.get("source") or MISSING
    if stage.get("generated") and source != "store":
        return f"{stage['generated']['rows']:,} rows"
    if source in ("trained", "resumed") and (stage.get("cost") or {}).get("steps") == 0:
        return "loaded"
    return {"store": "stored", "resumed": "continued"}.get(source, source)


def _best_and_last(split: dict[str, Any] | None, metric: str) -> str:
    values = [(split or {}).get(which) for which in ("best", "last")]
    figures = [value.get(metric) if isinstance(value, dict) else value for value in values]
    return " / ".join(figure_text(figure, metric) for figure in figures)
