"""kdrun table NAME --check: every figure of a stored table again from the records, and its jobs against today's table file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from kdrun.differences import Difference
from kdrun.files import dump_json, read_json
from kdrun.problems import UserError
from kdrun.tables.build import SCHEMA, footnotes, make_cells, table_folder
from kdrun.tables.checks import RecordedJob
from kdrun.tables.metric_names import METRICS, WHICH
from kdrun.tables.metrics import Record
from kdrun.tables.render import RENDERED
from kdrun.tracking.registry import read_run, run_of_job, runs_folder

COMMITTED = Path("docs") / "results"
TIMED = ("seconds", "cpu_seconds")
OVER_ALL = {"p_holm", "comparisons"}
USUAL = {item.name: item.default for item in fields(Difference) if item.default is not MISSING}
"""What a figure of a difference that came later is in tables that were made before it."""


@dataclass
class Verified:
    """differing and changed say what is wrong; absent names the cells that could not be looked at; agreeing counts."""

    path: str
    differing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    agreeing: int = 0

    @property
    def good(self) -> bool:
        return not (self.differing or self.changed or self.absent)


def stored_table(name: str, outputs: str | os.PathLike[str], *, committed_first: bool = False) -> tuple[Path, Record]:
    """table.json of a table: that of the outputs folder, the one committed in docs/results of the current folder, or (not where
    that one comes first) the one of the clone that kdrun runs from."""
    places = [table_folder(outputs, name), COMMITTED / name]
    clone = Path(__file__).resolve().parents[2] / COMMITTED / name
    for folder in reversed(places) if committed_first else [*places, clone]:
        path = folder / "table.json"
        if path.is_file():
            table = read_json(path)
            if not isinstance(table, dict) or table.get("schema") != SCHEMA:
                raise UserError(f"{path} is no table of this kdrun")
            return path, table
    raise UserError(f"table {name} has no results here: neither {places[0]} nor {places[1]}", f"kdrun table {name}")


def verify(path: Path, table: Record, hashes: dict[tuple[str, str], str], outputs: str | os.PathLike[str]) -> Verified:
    """hashes: (row, column) -> hash of the job that today's table file and configs give."""
    found = Verified(str(path))
    _jobs(table, hashes, found)
    entries = [RecordedJob(job["row"], job["columns"], job["label"], record_of(job, outputs)) for job in table["jobs"]]
    here = {(entry.row, column): entry.record for entry in entries for column in entry.columns}
    remade = {
        job["label"]
        for job, entry in zip(table["jobs"], entries, strict=True)
        if entry.record is not None and entry.record["created"] != job["created"]
    }
    published = {
        row["id"]: {
            cell["column"]: value["published"]
            for cell in table["cells"]
            if cell["row"] == row["id"]
            for value in cell["values"].values()
            if "published" in value
        }
        for row in table["rows"]
    }
    epoch = table["published"].get("epoch", "")
    cells = make_cells(table["rows"], table["columns"], entries, table["seeds"], published, epoch)
    footnotes(table["rows"], cells)
    labels = {(job["row"], column): job["label"] for job in table["jobs"] for column in job["columns"]}
    derived = {(cell["row"], cell["column"]): cell for cell in cells}
    complete = all(record is not None for record in here.values())
    for cell in table["cells"]:
        place = (cell["row"], cell["column"])
        if here.get(place) is None:
            found.absent.append(":".join(place))
        elif cell["metric"] in TIMED and labels.get(place) in remade:
            found.again.append(":".join(place))
        else:
            _cell(cell, derived[place], complete, found)
    _files(path.parent, table, found)
    return found


def record_of(job: dict[str, Any], outputs: str | os.PathLike[str]) -> Record | None:
    """The record of a job of a table: that of its run, or of another run of the same job."""
    if job["run"]:
        record = read_run(runs_folder(outputs) / job["run"]).record
        if record is not None and record["job_hash"] == job["job_hash"]:
            return record
    run = run_of_job(outputs, job["job_hash"])
    return run.record if run is not None and job["status"] != "not run" else None


def _jobs(table: Record, hashes: dict[tuple[str, str], str], found: Verified) -> None:
    """Rows whose jobs are not those of the table file any more."""
    stored = {(job["row"], column): job["job_hash"] for job in table["jobs"] for column in job["columns"]}
    for place in sorted(stored.keys() | hashes.keys()):
        one, other = stored.get(place), hashes.get(place)
        if one != other:
            name = ":".join(place)
            if one is None:
                found.changed.append(f"{name} is in the table file, not in the results")
            elif other is None:
                found.changed.append(f"{name} is in the results, not in the table file any more")
            else:
                found.changed.append(f"{name}: its job was {one[:8]}, today's configs give {other[:8]}")


def _cell(stored: dict[str, Any], derived: dict[str, Any], complete: bool, found: Verified) -> None:
    """bold compares all cells of a column, and OVER_ALL those of the table: only looked at where every record is here."""
    left_out = ("run", "marks", *(() if complete else ("bold",)))
    before = len(found.differing)
    for key in stored.keys() | derived.keys():
        one, other = stored.get(key), derived.get(key)
        if key in left_out or dump_json(one) == dump_json(other):
            continue
        if key == "values":
            _values(stored, one or {}, other or {}, complete, found)
        else:
            found.differing.append(f"{stored['row']}:{stored['column']}: {key} is {one} here, the record gives {other}")
    found.agreeing += before == len(found.differing)


def _values(
    stored: dict[str, Any], one: dict[str, Any], other: dict[str, Any], complete: bool, found: Verified
) -> None:
    place = f"{stored['row']}:{stored['column']} {METRICS[stored['metric']].unit and stored['metric']}"
    for which in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(which) or {}, other.get(which) or {}
        for key in sorted((mine.keys() | theirs.keys()) - (set() if complete else OVER_ALL)):
            later = key not in mine and key in USUAL and theirs.get(key) == USUAL[key]
            if not later and dump_json(mine.get(key)) != dump_json(theirs.get(key)):
                name = f"{which} {key}" if which in WHICH else key
                found.differing.append(f"{place} {name} is {mine.get(key)} here, the record gives {theirs.get(key)}")


def _files(folder: Path, table: Record, found: Verified) -> None:
    """The other files beside table.json say what it says, to the byte: a digit edited by hand is seen."""
    for name, render in RENDERED.items():
        path = folder / f"table.{name}"
        if not path.is_file():
            continue
        own, right = path.read_text(encoding="utf-8").splitlines(), render(table).splitlines()
        if own != right:
            lines = [n for n in range(max(len(own), len(right))) if own[n : n + 1] != right[n : n + 1]]
            text = (right[lines[0] : lines[0] + 1] or ["nothing"])[0]
            found.differing.append(f"{path}, line {lines[0] + 1}: table.json gives: {text}")


def lines_of(found: Verified, cells: Sequence[Any]) -> list[str]:
    """What --check prints."""
    lines = [*found.differing, *(f"changed since: {line}" for line in found.changed)]
    if found.absent and len(found.absent) == len(cells):
        lines.append("no record of this table is here: nothing could be derived again")
    elif found.absent:
        lines.append(f"record not here: {', '.join(found.absent)}")
    if found.again:
        lines.append(f"not compared, measured anew by another run: {', '.join(found.again)}")
    verdict = "agrees" if found.good else "does not agree"
    return [*lines, f"{found.path} {verdict}: {found.agreeing} of {len(cells)} cells as the records give them"]
