"""A table as one plain mapping, made from records alone: what is rendered, stored as table.json, and derived again by --check."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.differences import corrected
from kdrun.files import read_json, write_atomic, write_json
from kdrun.tables import metrics
from kdrun.tables.checks import RecordedJob
from kdrun.tables.metric_names import METRICS, ONCE, WHICH, per_epoch
from kdrun.tables.metrics import Measured, Record, difference_in, main_metric, main_score, measure
from kdrun.tables.spec import TableJob, TableRequest

SCHEMA = 1
TABLES = "tables"
NOT_RUN = {"status": "not run", "type": None, "message": None}


def table_folder(outputs: str | os.PathLike[str], name: str) -> Path:
    return Path(outputs) / TABLES / name


def entries_of(jobs: Sequence[TableJob], records: Sequence[Record | None]) -> list[RecordedJob]:
    """Each job with its record; `label` names it within the table."""
    rows = [job.row for job in jobs]
    labels = [row if rows.count(row) == 1 else f"{row} ({job.columns[0]})" for row, job in zip(rows, jobs, strict=True)]
    return [
        RecordedJob(j.row, j.columns, label, record) for j, label, record in zip(jobs, labels, records, strict=True)
    ]


def build(
    request: TableRequest, entries: Sequence[RecordedJob], jobs: Sequence[TableJob], hashes: Sequence[str], found: Any
) -> Record:
    """The table. entries, jobs and hashes belong together; found: what the checks found (its warnings are kept)."""
    spec, outputs = request.spec, request.outputs or "outputs"
    rows = [
        {"id": row.id, "label": row.label, **({"expects": row.expects} if row.expects else {})} for row in spec.rows
    ]
    columns = [column.definition for column in spec.columns]
    seeds: list[int] = next((entry.record["seeds"] for entry in entries if entry.record), [])
    vary: list[str] = next((entry.record["config"].get("vary", []) for entry in entries if entry.record), [])
    cells = make_cells(rows, columns, entries, seeds, spec.published, spec.source.get("epoch", ""))
    listed = [_job(*four, outputs) for four in zip(entries, jobs, hashes, range(len(jobs)), strict=True)]
    return {
        "schema": SCHEMA,
        "name": request.name,
        "title": spec.title,
        "note": spec.note,
        **({"plan": spec.plan} if spec.plan else {}),
        "seeds": seeds,
        **({"vary": vary} if len(vary) > 1 else {}),
        "rows": rows,
        "columns": columns,
        "published": spec.source,
        "cells": cells,
        "notes": footnotes(rows, cells),
        "warnings": [*found.warnings, *unmet(rows, columns, cells)],
        "jobs": listed,
        "provenance": _provenance(request, entries, listed),
    }


def make_cells(
    rows: Sequence[dict[str, Any]],
    columns: Sequence[dict[str, Any]],
    entries: Sequence[RecordedJob],
    seeds: Sequence[int],
    published: dict[str, dict[str, float]],
    epoch: str,
) -> list[dict[str, Any]]:
    """One mapping for each row and column. epoch: the one that the published figures report (best, last or unknown)."""
    by_place = {(entry.row, column): entry for entry in entries for column in entry.columns}
    cells = []
    for row in rows:
        for column in columns:
            entry = by_place.get((row["id"], column["id"]))
            record = entry.record if entry else None
            if record is None:
                missing = {str(seed): NOT_RUN for seed in seeds}
                found = Measured(column["arm"], 0, len(seeds), {}, missing)
            else:
                found = measure(record, column["arm"], column["metric"], column.get("split", "test"))
            cell = {
                "row": row["id"],
                "column": column["id"],
                "arm": found.arm,
                "metric": column["metric"],
                "run": record["id"] if record else None,
                "job_hash": record["job_hash"] if record else None,
                **{key: getattr(found, key) for key in ("applies", "n", "of", "missing", "values", "validation")},
                "bold": False,
                **{key: getattr(found, key) for key in ("unit", "remark") if getattr(found, key)},
            }
            figure = published.get(row["id"], {}).get(column["id"])
            if figure is not None:
                _compare(cell, figure, epoch)
            cells.append(cell)
    _mark(cells, columns)
    _correct(cells)
    return cells


def unmet(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]], cells: Sequence[dict[str, Any]]
) -> list[str]:
    """One line for each difference that is not decided as its row expects: something broke, or nothing is known yet."""
    expected = {row["id"]: row["expects"] for row in rows if row.get("expects")}
    epochs = {column["id"]: column["which"] for column in columns}
    lines = []
    for cell in cells:
        which = "best" if epochs[cell["column"]] == "best" else "last"
        difference = difference_in(cell, which) if cell["row"] in expected else None
        decision = difference and difference.decision(difference.margin)
        if decision is not None and decision != expected[cell["row"]]:
            lines.append(f"{cell['row']} ({cell['column']}): expected {expected[cell['row']]}, is {decision}")
    return lines


def _correct(cells: Sequence[dict[str, Any]]) -> None:
    """p values corrected over all comparisons of the table (Holm), those of either epoch together."""
    for which in WHICH:
        found = {place: difference_in(cell, which) for place, cell in enumerate(cells)}
        tested = corrected({place: one for place, one in found.items() if one is not None and one.p_value is not None})
        for place, one in tested.items():
            cells[place]["values"][which] |= {"p_holm": one.p_holm, "comparisons": one.comparisons}


def _compare(cell: dict[str, Any], figure: float, epoch: str) -> None:
    """The published figure beside own ones of the epoch that the paper reports; of both where it does not say which."""
    whichs = [ONCE] if not per_epoch(cell["metric"]) else list(WHICH) if epoch == "unknown" else [epoch]
    for which in whichs:
        value = cell["values"].setdefault(which, {"mean": None, "sd": None})
        value["published"] = figure
        value["over_published"] = None if value["mean"] is None else value["mean"] - figure


def _mark(cells: Sequence[dict[str, Any]], columns: Sequence[dict[str, Any]]) -> None:
    """Bold: the best validation mean of a column among cells with all seeds. Test has no say in it."""
    for column in columns:
        if not column["bold"]:
            continue
        own = [c for c in cells if c["column"] == column["id"] and c["n"] == c["of"] and c["validation"] is not None]
        better = max if (column.get("better") or METRICS[column["metric"]].better) == "max" else min
        best = better((cell["validation"] for cell in own), default=None)
        for cell in own:
            cell["bold"] = cell["validation"] == best


def footnotes(rows: Sequence[dict[str, Any]], cells: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """[{"mark", "text"}] for missing seeds, and the marks into the cells. One note for equal reasons in a row."""
    labels = {row["id"]: row["label"] for row in rows}
    marks: dict[str, str] = {}
    for cell in cells:
        reasons: dict[str, list[str]] = {}
        for seed, reason in cell["missing"].items() if cell["applies"] else ():
            kind = f" ({reason['type']}: {reason['message']})" if reason["type"] else ""
            reasons.setdefault(f"{reason['status'] or 'no reason recorded'}{kind}", []).append(seed)
        texts = [
            f"{labels[cell['row']]}: seed {', '.join(seeds)} without a result: {reason}"
            for reason, seeds in reasons.items()
        ]
        texts += [cell["remark"]] if cell.get("remark") else []
        for text in texts:
            marks.setdefault(text, _letters(len(marks)))
        cell["marks"] = [marks[text] for text in texts]
    return [{"mark": mark, "text": text} for text, mark in marks.items()]


def _letters(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"{_letters(number // 26 - 1)}{_letters(number % 26)}"


def _job(entry: RecordedJob, job: TableJob, job_hash: str, number: int, outputs: str) -> dict[str, Any]:
    record = entry.record or {}
    git = (record.get("git") or {}).get("kdrun") or {}
    return {
        "number": number,
        "row": entry.row,
        "columns": entry.columns,
        "label": entry.label,
        "overrides": job.words,
        "job_hash": job_hash,
        "run": record.get("id"),
        "status": record.get("status") or "not run",
        "created": record.get("created"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "data": data_of(record, outputs),
        "teachers": {
            fingerprint: {
                "learner": stage["learner"],
                **({} if main_metric(record, stage) == "accuracy" else {"metric": main_metric(record, stage)}),
                **{which: main_score(record, stage, which) for which in WHICH},
            }
            for fingerprint, stage in metrics.teachers(record).items()
        },
        "seconds": (record.get("summary") or {}).get("seconds"),
    }


def stage_folder(stage: Record, outputs: str | os.PathLike[str]) -> Path | None:
    """Where a stage lies: as recorded, or in the store of this outputs folder; None where it is gone."""
    fingerprint = stage.get("fingerprint") or ""
    for folder in (Path(stage.get("path") or "."), Path(outputs) / "store" / "stages" / fingerprint[:2] / fingerprint):
        if (folder / "record.json").is_file():
            return folder
    return None


def data_of(record: Record, outputs: str | os.PathLike[str]) -> dict[str, Any]:
    """{"name", "content"}: content is the sha256 of the raw data as a stage in the store names it, None where unknown."""
    name = ((record.get("config") or {}).get("data") or {}).get("name")
    for stage in record.get("stages") or []:
        if folder := stage_folder(stage, outputs):
            parts = read_json(folder / "record.json").get("parts") or {}
            return {"name": name, "content": (parts.get("data") or {}).get("content")}
    return {"name": name, "content": None}


def _provenance(
    request: TableRequest, entries: Sequence[RecordedJob], jobs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Where the figures come from; neither host, user nor folder names."""
    records = [entry.record for entry in entries if entry.record]
    versions = {
        name: sorted({str((record["versions"] or {}).get(name)) for record in records})
        for name in ("kdrun", "torch", "lightning", "python")
    }
    machines = [
        {key: (r["hardware"] or {}).get(key) for key in ("cpu", "cores", "device", "precision")} for r in records
    ]
    return {
        "command": request.command,
        "spec": {"file": f"table/{request.spec.name}.yaml", "sha256": request.spec.sha256},
        "commits": _distinct([{"commit": job["commit"], "dirty": job["dirty"]} for job in jobs if job["run"]]),
        "data": _distinct([job["data"] for job in jobs if job["run"]]),
        "machines": _distinct(machines),
        "versions": versions,
    }


def _distinct(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for number, item in enumerate(items) if item not in items[:number]]


def write_table(folder: Path, table: Record) -> tuple[Record, list[Path]]:
    """table.json, and from what it says table.md, table.tex and table.csv; the same records give the same bytes.

    Returns the table as a reader of table.json gets it, and the files.
    """
    from kdrun.tables.render import RENDERED

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "table.json"]
    write_json(paths[0], table, seal=False)  # committed: for people and for diffs
    table = read_json(paths[0])
    for name, render in RENDERED.items():
        paths.append(folder / f"table.{name}")
        write_atomic(paths[-1], render(table))
    return table, paths
