"""The page of a table: its cells as they are printed everywhere, what they mean, and where they come from."""

from __future__ import annotations

from typing import Any

from kdrun.plots.subject import Subject
from kdrun.present.units import MISSING
from kdrun.problems import UserError
from kdrun.report.markup import Html, block, code, facts, folded, section, table, tag
from kdrun.tracking.record import DONE

LOST = "without a result"
"""What the note of a cell says that lacks some of its seeds."""


def headline(subject: Subject) -> tuple[str, str]:
    """(the title, how much of the table is there)."""
    record = subject.record
    jobs = record.get("jobs") or []
    done = sum(job.get("status") == DONE for job in jobs)
    size = f"{len(record.get('rows') or [])} rows, {len(record.get('columns') or [])} columns"
    notes = [note.get("text") or "" for note in record.get("notes") or []]
    missing = " Results are missing, see the notes below the table." if any(LOST in text for text in notes) else ""
    return str(record.get("title") or subject.name), f"{size}; {done} of {len(jobs)} jobs done.{missing}"


def body(subject: Subject) -> list[Html]:
    """The sections, in order. UserError for a table.json that the table's own printing cannot read either."""
    from kdrun.tables.render import explanation, grid, provenance_lines

    record = subject.record
    try:
        headings, rows = grid(record)
        meaning, origin = explanation(record), provenance_lines(record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{subject.folder / 'table.json'} is not a table of this kdrun ({reason})") from None
    notes = record.get("notes") or []
    return [
        section(
            "Table",
            tag("p", record["note"]) if record.get("note") else None,
            table(str(record.get("title")), headings, [[_cell(cell) for cell in row] for row in rows]),
            tag("p", *(line for note in notes for line in _note(note)), class_="note") if notes else None,
            whole=True,
        ),
        section("How to read it", _list(meaning)),
        section("Mind", _list(record.get("warnings") or [])),
        section(
            "How to reproduce",
            block((record.get("provenance") or {}).get("command") or f"kdrun table {subject.name}"),
            facts((name, code(text) if name == "command" else text) for name, text in origin),
            tag("p", "From a cell to its runs: ", code(f"kdrun why {subject.name}:ROW:COLUMN")),
            _jobs(record.get("jobs") or []),
        ),
    ]


def _note(note: dict[str, Any]) -> list[Any]:
    return [tag("sup", note.get("mark")), " ", note.get("text"), tag("br")]


def _cell(cell: Any) -> Html:
    """A printed cell: bold and with the letters of its notes."""
    marks = tag("sup", ", ".join(cell.marks)) if cell.marks else ""
    return tag("strong" if cell.bold else "span", cell.text, marks)


def _list(lines: list[str]) -> Html:
    return tag("ul", *(tag("li", line) for line in lines)) if lines else Html("")


def _jobs(jobs: list[dict[str, Any]]) -> Html:
    rows = [
        (
            job.get("label"),
            job.get("status"),
            code(job.get("run") or MISSING),
            code(str(job.get("job_hash") or MISSING)[:8]),
            code(" ".join(job.get("overrides") or [])),
        )
        for job in jobs
    ]
    return folded(f"{len(jobs)} jobs", table("Jobs", ("job", "status", "run", "hash", "overrides"), rows, left=5))
