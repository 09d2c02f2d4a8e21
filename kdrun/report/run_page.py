"""The page of one run: verdict, student against controls, curves, cost, data, config, how to reproduce."""

from __future__ import annotations

import base64
from typing import Any

from kdrun.measures import measure
from kdrun.parts import headline_epoch, trained_nothing
from kdrun.plots.data import in_order, labels_of, result_of, training_seconds
from kdrun.plots.subject import Subject
from kdrun.present.results import (
    DIFFERENCE_HEAD,
    DIFFERENCE_NOTE,
    arm_label,
    difference_rows,
    error_text,
    is_points,
    judged_rows,
    percent,
    result_rows,
    seen_rows,
)
from kdrun.present.units import duration, words
from kdrun.present.verdict import verdict_of
from kdrun.records import arms_of, metric_of, own_arm, spread, stages_of
from kdrun.report.added import added_metrics
from kdrun.report.card import scorecard
from kdrun.report.classes import class_tables
from kdrun.report.figures import PageFigures
from kdrun.report.markup import Html, section, table, tag
from kdrun.report.parts import PageTable, part_tables
from kdrun.report.sections import audit, config, count, failure, reproduce
from kdrun.report.written import written_tables
from kdrun.tracking.record import DONE, FAILURES, log_tail
from kdrun.tracking.registry import RunInfo

LOG_LINES = 15
EPOCHS = {"best": "selected", "last": "last"}


def headline(run: RunInfo, record: dict[str, Any]) -> tuple[str, str]:
    """(a few words, the rest): the verdict; of a run without one, how it ended and why."""
    verdict = verdict_of(record)
    if verdict:
        first, colon, rest = verdict.partition(": ")
        return (first, rest) if colon and len(first) < 40 else ("", verdict)
    error = record.get("error") or {}
    if run.status in FAILURES:
        return f"No result: {words(run.status)}", error_text(error) or "The record tells no reason."
    return f"No result yet: {words(run.status)}", error_text(error) or "There is nothing to judge."


def body(subject: Subject) -> list[Html]:
    """The sections, in order."""
    ((_, run),) = subject.runs
    record, figures = subject.record, PageFigures(subject)
    return [
        _failures(run, record),
        _against_controls(record, figures),
        section("Parts and decisions", *_tables(part_tables(record)), _sheet(run)),
        section("Metrics", *_tables([*class_tables(record), *added_metrics(record)])),
        section("Written texts", *_tables(written_tables(record))),
        section("Curves", figures.html("curves")),
        *([section("Tasks", figures.html("tasks"))] if any(s.get("matrix") for s in record["stages"] or ()) else []),
        *([section("Hops", figures.html("hops"))] if any(s.get("gap") for s in record["stages"] or ()) else []),
        section("Cost", _stage_costs(record), figures.html("cost")),
        scorecard(run),
        audit(record.get("audit") or {}),
        config(record),
        reproduce(run, record),
    ]


def _tables(made: list[PageTable]) -> list[Html]:
    return [table(title(each.caption), each.head, each.rows, left=each.left) for each in made]


def title(caption: str) -> str:
    return caption[:1].upper() + caption[1:]


def _sheet(run: RunInfo) -> Html:
    """The contact sheet, where `kdrun plot RUN kind=windows` has drawn one."""
    path = run.dir / "plots" / "windows.png"
    if not path.is_file():
        return Html("")
    content = base64.b64encode(path.read_bytes()).decode()
    alt = "Test samples in every view, with maps of what networks look at, before and after"
    return tag("figure", tag("img", src=f"data:image/png;base64,{content}", alt=alt), class_="wide sheet", tabindex="0")


def _failures(run: RunInfo, record: dict[str, Any]) -> Html:
    error = record.get("error")
    if not error or run.status == DONE:
        return Html("")
    return section("What failed", *failure(error_text(error), log_tail(run.dir, LOG_LINES)))


def _against_controls(record: dict[str, Any], figures: PageFigures) -> Html:
    summary, arms, own = record.get("summary") or {}, arms_of(record), own_arm(record)
    what = f"{summary.get('split') or 'test'} {measure(summary.get('metric')).label}"
    rows, marked = result_rows(summary), arm_label(arms, own) if own in arms else None
    seen, lasts = seen_rows(summary), any(last != "-" for _, _, last, _ in rows)
    return section(
        "Student against controls",
        *([table("What each learner was trained on", ("learner", "samples"), seen, left=2)] if seen else []),
        table(
            title(f"{what}: mean ± sample deviation over seeds"),
            ("", "selected epoch", "last epoch", "seeds") if lasts else ("", "selected epoch", "seeds"),
            rows if lasts else [(name, best, seeds) for name, best, _, seeds in rows],
            marked=[index for index, row in enumerate(rows) if row[0] == marked],
        ),
        *(tag("p", title(f"{name.capitalize()} {text}."), class_="note") for name, text in judged_rows(summary)),
        table(
            title(f"student minus control{' in points' if is_points(summary.get('metric')) else ''}"),
            ("control", *DIFFERENCE_HEAD),
            difference_rows(summary),
        ),
        tag("p", title(f"{DIFFERENCE_NOTE}."), class_="note") if difference_rows(summary) else Html(""),
        table(
            title(f"{what} of the {EPOCHS[headline_epoch(summary)]} epoch, seed by seed"),
            ("arm", *(f"seed {seed}" for seed in _seeds(record))),
            _seed_rows(record),
        ),
        figures.html("seeds"),
    )


def _seeds(record: dict[str, Any]) -> list[str]:
    found = {
        seed for arm in arms_of(record).values() for seed in (*(arm.get("seeds") or {}), *(arm.get("missing") or {}))
    }
    return sorted(found, key=int)


def _seed_rows(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    arms, metric, rows = arms_of(record), metric_of(record), []
    which = headline_epoch(record.get("summary") or {})
    for arm in in_order(arms):
        cells = []
        for seed in _seeds(record):
            reason = (arms[arm].get("missing") or {}).get(seed)
            result = (arms[arm].get("seeds") or {}).get(seed) or {}
            lost = tag("span", words(str((reason or {}).get("status") or "missing")), class_="lost")
            cells.append(lost if reason or not result else percent(result.get(which), metric))
        rows.append((arms[arm].get("label") or arm, *cells))
    return rows


def _stage_costs(record: dict[str, Any]) -> Html:
    """One row per kind of stage: means over seeds; validation beside test, because validation is what chose."""
    labels, metric, rows = labels_of(record), metric_of(record), []
    for kind in in_order(stage["role"] for stage in record.get("stages") or []):
        stages = list(stages_of(record, kind).values())
        if trained_nothing(stages[0]):
            continue  # networks taken together, or looked at
        known = [training_seconds(stage) for stage in stages]
        validation = [value for stage in stages if (value := result_of(stage, "val", metric)) is not None]
        sizes = (count(stages[0].get(key)) for key in ("parameters", "flops"))
        mean = percent(spread(validation)["mean"], metric)
        rows.append((labels[kind], str(len(stages)), duration(spread(known)["mean"]), *sizes, mean))
    scores = f"validation {measure(metric).label}"
    head = ("stage", "fits", "training time, mean", "parameters", "FLOPs per sample", scores)
    return table("What each kind of stage cost, whether it was trained now or found in the store", head, rows)
