"""kdrun show RUN: everything the record of one run says, on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdrun.accounting.text import fitted, joules_text
from kdrun.files import dump_json
from kdrun.job import auto
from kdrun.measures import measure
from kdrun.plots.subject import find_subject
from kdrun.present.results import (
    DIFFERENCE_HEAD,
    DIFFERENCE_NOTE,
    difference_rows,
    error_text,
    is_points,
    judged_rows,
    missing_rows,
    result_rows,
    seeds_of,
    seen_rows,
    stage_rows,
)
from kdrun.present.units import MISSING, age, duration
from kdrun.present.verdict import settle_command, verdict_of
from kdrun.report.sections import machine_text
from kdrun.tables.metrics import main_metric
from kdrun.tracking.mirror import describe_mirror, read_state, send_command
from kdrun.tracking.overview import seconds_of
from kdrun.tracking.record import log_tail
from kdrun.tracking.registry import RunInfo, find_run
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import one_word, outputs_folder

LOG_LINES = 12
FOLDERS = {"figures": "plots", "exports": "exports", "cards": "card"}
"""Label -> folder of a run in which verbs leave files."""
MOST_FILES = 12
PACKAGES = ("kdrun", "torch", "lightning", "python")


def main(args: Arguments) -> int:
    """Print the page, or with --json the record with its real status, folder and tracker state."""
    subject = find_subject(outputs_folder(args), [one_word(args)])
    if subject.kind == "sweep":
        return _show_sweep(subject, args)
    ((_, run),), record = subject.runs, subject.record
    if args.json:
        extra = {"status": run.status, "path": str(run.dir), "tracker": read_state(run.dir) or None}
        print(dump_json({**record, **extra}))
        return 0
    _print_page(run, record)
    return 0


def _show_sweep(sweep: Any, args: Arguments) -> int:
    """A row for each configuration, over its seeds, and for each job; with --json sweep.json and the status of its runs."""
    from kdrun.report.sweep_page import configurations, rows_of

    jobs, merged = rows_of(sweep), configurations(sweep)
    if args.json:
        runs = [{"number": job.number, "run": job.run_id, "label": job.label, "status": job.status} for job in jobs]
        print(dump_json({**sweep.record, "path": str(sweep.folder), "runs": runs}))
        return 0
    from rich.text import Text

    from kdrun.present.console import STYLES, Console, blank, columns, dim, show_page
    from kdrun.sweep.board import CHOOSE, FIGURES, result_figures

    metric = next((job.record["summary"]["metric"] for job in jobs if job.record.get("summary")), None)
    heads = [f"{name} {measure(metric).title}" if name in ("val", "test") else name for name in FIGURES]

    def row(job: Any, *first: str) -> tuple[Any, ...]:
        return (
            *first,
            job.label,
            Text(job.status, STYLES.get(job.status, "")),
            *result_figures(job.record, job.status, metric),
        )

    body = [
        columns(("job", "overrides", "status", *heads), [row(job, str(job.number)) for job in jobs], 3, whole=(0, 2))
    ]
    if len(merged) < len(jobs):
        body += [blank(), columns(("over seeds", "status", *heads), [row(job) for job in merged], 2, whole=(1,))]
    body += [dim(CHOOSE)]
    next_ones = [("command", sweep.record.get("command") or MISSING), ("figures", f"kdrun plot {sweep.name}"),
                 ("page", f"kdrun report {sweep.name}"), ("runs", f"kdrun runs sweep={sweep.name}"), ("folder", str(sweep.folder))]  # fmt: skip
    show_page(Console(), sweep.name, body, next_ones)
    return 0


def chosen_run(args: Arguments) -> RunInfo:
    """The run named on the command line (default: the last one)."""
    return find_run(outputs_folder(args), one_word(args))


def header(run: RunInfo, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of the lines at the top."""
    attempts = len(record["attempts"])
    git = (record["git"] or {}).get("kdrun") or {}
    where = " (git.diff)" if git.get("diff_sha256") else ""
    changed = f" with uncommitted changes{where}" if git.get("dirty") else ""
    versions = record["versions"] or {}
    lines = [
        ("name", record["name"] or MISSING),
        ("status", run.status + (f", attempt {attempts}" if attempts > 1 else "")),
        ("started", f"{age(record['created'])} ({record['created']}), took {duration(seconds_of(record, run.status))}"),
        ("seeds", seeds_of(record)),
        *([("student", auto.lines(record["auto"])[0])] if record.get("auto") else []),
        ("code", f"commit {git['commit'][:10]}{changed}" if git.get("commit") else "no commit known"),
        ("versions", ", ".join(f"{name} {versions[name]}" for name in PACKAGES if versions.get(name)) or MISSING),
        ("machine", machine_text(record["hardware"] or {}) or MISSING),
    ]
    tracker = describe_mirror(run.dir)
    return [*lines, ("W&B", tracker)] if tracker else lines


def _print_page(run: RunInfo, record: dict[str, Any]) -> None:
    from kdrun.parts import gains_of
    from kdrun.present.console import Console, blank, bold, columns, dim, facts, show_page
    from kdrun.report.added import added_metrics
    from kdrun.report.classes import class_tables
    from kdrun.report.parts import part_tables
    from kdrun.report.written import written_tables

    summary, stages = record["summary"] or {}, record["stages"] or []
    body: list[Any] = [facts(header(run, record))]
    if rows := result_rows(summary):
        metric = f"{summary.get('split', 'test')} {measure(summary.get('metric')).label}"
        body += [blank(), columns((metric, "best epoch", "last epoch", "seeds"), rows)]
    if rows := judged_rows(summary):
        body += [blank(), facts(rows)]
    if rows := seen_rows(summary):
        body += [blank(), columns(("trained on", ""), rows, left=2)]
    if rows := missing_rows(summary):
        body += [blank(), facts(rows)]
    if rows := difference_rows(summary):
        unit = "points" if is_points(summary.get("metric")) else summary["metric"]
        body += [blank(), columns((f"student, {unit}", *DIFFERENCE_HEAD), rows), dim(DIFFERENCE_NOTE)]
    if any(map(gains_of, (summary.get("arms") or {}).values())):
        from kdrun.job.panel import gains

        body += [blank(), gains(summary)]
    tables = [*part_tables(record), *class_tables(record), *added_metrics(record), *written_tables(record)]
    for found in tables:
        body += [blank(), dim(found.caption), columns(found.head, found.rows, found.left)]
    if verdict := verdict_of(record):
        body += [blank(), bold(verdict)]
    if stages:
        metric = summary.get("metric") or main_metric(record, stages[0])
        unit = f" {measure(metric).unit}" if measure(metric).unit == "%" else ""
        names = ("stage", "fingerprint", "result", f"val{unit}", f"test{unit}", "time")
        body += [blank(), columns(names, stage_rows(stages, metric), whole=(0,))]
        body += [dim("val, test: at the best epoch / at the last one")]
    body += [blank(), facts(closing(run, record))]
    show_page(Console(), run.id, body, copied(run, record))
    if record["error"] and (log := log_tail(run.dir, LOG_LINES)):
        console = Console()
        console.print("\nend of run.log", style="dim")
        for line in log:
            console.whole(line)


def closing(run: RunInfo, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of the lines at the end: data, energy, what was mended, how it failed, and which files there are."""
    lines = []
    if audit := record["audit"]:
        entries = (f"{key} {json.dumps(value)}" for key, value in audit.items())
        lines.append(("data", audit.get("summary") or ", ".join(entries)))
    if (spent := fitted(record["stages"] or [])).joules:
        lines.append(("energy", joules_text(spent)))
    for attempt in record["attempts"]:
        lines += [("mended", f"{mend['what']} ({mend['at']})") for mend in attempt.get("mended") or ()]
    if error := record["error"]:
        lines.append(("error", error_text(error)))
    return [*lines, *((name, ", ".join(files)) for name, files in files_of(run.dir).items())]


def files_of(folder: Path) -> dict[str, list[str]]:
    """What lies in a run folder: files, and the contents of the folders of figures, exported networks and cards."""
    found = {"files": sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))}
    for label, name in FOLDERS.items():
        paths = [path.relative_to(folder) for path in folder.glob(f"{name}/**/*") if path.is_file()]
        # The folder of an exported network instead of each of its files.
        inside = sorted({str(path.parent if len(path.parts) > 2 else path) for path in paths})
        if inside:
            more = [f"and {len(inside) - MOST_FILES} more"] if len(inside) > MOST_FILES else []
            found[label] = [*inside[:MOST_FILES], *more]
    return found


def copied(run: RunInfo, record: dict[str, Any]) -> list[tuple[str, str]]:
    """What can be typed or opened next."""
    lines = [("run again", f"kdrun rerun {run.id}")]
    if settle := settle_command(record):
        lines.append(("settle it", settle))
    if fitted(record["stages"] or []).joules:
        lines.append(("energy", f"kdrun energy {run.id}"))
    if send := send_command(run.dir):
        lines.append(("W&B", send))
    return [("command", record["command"] or MISSING), *lines, ("folder", str(run.dir))]
