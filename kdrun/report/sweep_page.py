"""The page of a sweep: every point with its status and results, the best by validation, failures with their logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdrun.differences import corrected
from kdrun.job.over_seeds import repetitions, without_seeds
from kdrun.measures import measure
from kdrun.parts import headline_epoch
from kdrun.plots.subject import Subject, short_labels
from kdrun.present.results import count_text, difference_texts, error_text, percent
from kdrun.present.units import MISSING, duration, words
from kdrun.present.verdict import primary
from kdrun.records import arms_of, metric_of, own_arm, validation_of
from kdrun.report.figures import PageFigures
from kdrun.report.markup import Html, block, code, facts, folded, section, table, tag
from kdrun.report.run_page import LOG_LINES, title
from kdrun.report.sections import code_state, failure, plain, versions_text
from kdrun.tracking.flatten import flatten
from kdrun.tracking.record import DONE, FAILURES, log_tail
from kdrun.tracking.registry import RunInfo

NOT_STARTED = "new"
TRIALS = ("trials", "best", "pareto", "storage")
"""Parts of a search that the page shows in other places, or not at all: a path of a machine."""


@dataclass(frozen=True)
class PointRow:
    """One point. validation: mean over seeds of the metric at the selected epochs; None unless every seed has it."""

    number: int
    label: str
    run_id: str
    run: RunInfo | None
    validation: float | None

    @property
    def record(self) -> dict[str, Any]:
        return (self.run.record if self.run else None) or {}

    @property
    def status(self) -> str:
        return NOT_STARTED if self.run is None or self.run.status == "planned" else self.run.status

    @property
    def arm(self) -> dict[str, Any]:
        return arms_of(self.record).get(own_arm(self.record)) or {}


def rows_of(subject: Subject) -> list[PointRow]:
    """The points of a sweep in their order."""
    points = subject.record.get("points") or []
    runs = {part.id: part for _, run in subject.runs for part in getattr(run, "parts", ()) or (run,)}
    return _rows(points, [point.get("overrides") or [] for point in points], runs)


def configurations(subject: Subject) -> list[PointRow]:
    """One row for all points that differ in the seed alone: what can be chosen. Its number is that of the first."""
    singles = rows_of(subject)
    words = [point.get("overrides") or [] for point in subject.record.get("points") or []]
    groups = repetitions(words, [row.record or None for row in singles])
    points = [subject.record["points"][group[0]] for group in groups]
    words = [without_seeds(words[group[0]]) if len(groups) > 1 else words[group[0]] for group in groups]
    return _rows(points, words, {run.id: run for _, run in subject.runs})


def _rows(points: list[dict[str, Any]], words: list[list[str]], runs: dict[str, RunInfo]) -> list[PointRow]:
    found = [runs.get(point.get("run")) for point in points]
    labels = short_labels(words, [run.record if run else None for run in found])
    return [
        PointRow(point.get("number", index), label, point.get("run") or "", run, _validation(run) if run else None)
        for index, (point, label, run) in enumerate(zip(points, labels, found, strict=True))
    ]


def _validation(run: RunInfo) -> float | None:
    value = validation_of(run.record or {}) if run.status == DONE else None
    return value and value["mean"]


def best_rows(subject: Subject, rows: list[PointRow]) -> list[PointRow]:
    """What a search chose (the Pareto front of several objectives), else the best mean on validation. Test has no say."""
    search = subject.record.get("search") or {}
    chosen = search.get("pareto") or ([search["best"]] if search.get("best") else [])
    if chosen:
        names = {entry.get("run") for entry in chosen}
        return [row for row in rows if row.run_id in names]
    known = [row for row in rows if row.validation is not None]
    if not known:
        return []
    smaller = ((known[0].record.get("config") or {}).get("trainer") or {}).get("mode") == "min"
    return [(min if smaller else max)(known, key=lambda row: row.validation)]


def headline(subject: Subject) -> tuple[str, str]:
    """(how many are done, what was best by validation and what failed)."""
    rows = rows_of(subject)
    statuses = [row.status for row in rows]
    others = [f"{statuses.count(s)} {words(s)}" for s in dict.fromkeys(statuses) if s != DONE]
    best, text = best_rows(subject, configurations(subject)), f"{', '.join(others)}. ".capitalize() if others else ""
    if len(best) == 1:
        (row,) = best
        metric = metric_of(row.record)
        name = "" if len(configurations(subject)) == 1 else f"{row.label}, "
        text += f"{'Best by validation' if name else 'Over all seeds'}: {name}{percent(row.validation, metric)} on validation, "
        test = row.arm.get(headline_epoch(row.record.get("summary") or {}))
        text += f"{percent(test, metric)} on test ({count_text(row.arm)} seeds)."
    elif best:
        text += f"On the front of {' and '.join(subject.record['search'].get('objectives') or [])}: {len(best)} points."
    else:
        text += "No point has a result of all its seeds."
    return f"{statuses.count(DONE)} of {len(rows)} points done", text


def body(subject: Subject) -> list[Html]:
    """The sections, in order."""
    figures, rows = PageFigures(subject), rows_of(subject)
    return [
        _points(subject, configurations(subject)),
        section("Student against controls", figures.html("seeds", SEEDS)),
        _failures(rows),
        section("Curves", figures.html("curves")),
        section("Cost", figures.html("cost")),
        _search(subject.record.get("search") or {}),
        _reproduce(subject, rows),
    ]


SEEDS = "One row per point: each stroke is one seed, the dot their mean, the line the 95 % interval of Student's t over n pairs of seeds."


def _points(subject: Subject, rows: list[PointRow]) -> Html:
    best = {row.number for row in best_rows(subject, rows)} if len(rows) > 1 else set()
    metric = next((metric_of(row.record) for row in rows if row.record), "accuracy")
    head = ("point", "status", "validation", "test", "minus control", "95 % interval", "p", "seeds", "time")
    mark, differences = tag("span", "best by validation", class_="mark"), _differences(rows)
    shown = [
        (
            tag(
                "span",
                tag("span", str(row.number)),
                [row.label, " ", mark if row.number in best else ""],
                class_="numbered",
            ),
            words(row.status),
            *_figures(row, metric, differences.get(row.number)),
        )
        for row in rows
    ]
    note = "The best is marked by its mean on validation; test results describe and choose nothing. Intervals and p: Student's t "
    note += "over seeds; p is corrected over all points (Holm), and what is not below 0.05 is undecided."
    return section(
        "All points",
        table(
            f"{title(measure(metric).label)} of every point: mean ± sample deviation over seeds",
            head,
            shown,
            left=2,
            marked=[index for index, row in enumerate(rows) if row.number in best],
        ),
        tag("p", note, class_="note"),
    )


def _differences(rows: list[PointRow]) -> dict[int, dict[str, Any]]:
    """Number of a point -> its difference to its control, p corrected over all points (Holm)."""
    found = {row.number: primary(row.record.get("summary") or {}) for row in rows}
    known = {number: one for number, one in found.items() if one is not None}
    return {number: one.as_record() for number, one in corrected(known).items()}


def _figures(row: PointRow, metric: str, found: dict[str, Any] | None) -> tuple[str, ...]:
    summary = row.record.get("summary") or {}
    which = headline_epoch(summary)
    difference, interval, p, *_ = difference_texts(found, metric) if found else (MISSING, MISSING, MISSING)
    return (
        percent(row.validation, metric),
        percent(row.arm.get(which), metric),
        difference,
        interval,
        p,
        count_text(row.arm) if row.arm else MISSING,
        duration(summary.get("seconds")),
    )


def _failures(rows: list[PointRow]) -> Html:
    parts: list[Html] = []
    for row in rows:
        if row.status in FAILURES and row.run is not None:
            parts.append(tag("h3", f"{row.number}: {row.label}"))
            message = error_text(row.record.get("error") or {}) or "the record tells no reason"
            parts += failure(f"{words(row.status).capitalize()}. {message}", log_tail(row.run.dir, LOG_LINES))
    return section("Failures", *parts)


def _search(search: dict[str, Any]) -> Html:
    if not search:
        return Html("")
    known = flatten({key: value for key, value in search.items() if key not in TRIALS and value is not None})
    return section("Search", facts((name, plain(value)) for name, value in known.items()))


def _reproduce(subject: Subject, rows: list[PointRow]) -> Html:
    record = subject.record
    runs = [
        (str(row.number), row.label, code(row.run_id or MISSING), code(str(row.record.get("job_hash") or MISSING)[:16]))
        for row in rows
    ]
    shared = [set(point.get("overrides") or []) for point in record.get("points") or []]
    common = [word for word in (record["points"][0].get("overrides") or []) if word in set.intersection(*shared)]
    return section(
        "How to reproduce",
        block(record.get("command") or MISSING),
        facts([
            ("in all points", code(" ".join(common)) if common else None),
            *code_state(record.get("git")),
            ("versions", versions_text(record.get("versions"))),
            ("created", record.get("created")),
        ]),
        folded(f"{len(rows)} runs", table("Runs", ("point", "", "run", "job hash"), runs, left=4)),
    )  # fmt: skip
