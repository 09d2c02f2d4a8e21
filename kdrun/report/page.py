"""The whole page: one file without scripts, links or anything to fetch, which its own policy would refuse anyway."""

from __future__ import annotations

from pathlib import Path

from kdrun.files import write_atomic
from kdrun.plots.subject import Subject
from kdrun.present.units import words
from kdrun.report import run_page, sweep_page, table_page
from kdrun.report.markup import Html, tag
from kdrun.report.style import CSS
from kdrun.version import __version__

REPORT = "report.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write(subject: Subject) -> Path:
    """Writes the page of a run, a sweep or a table into its folder."""
    path = subject.folder / REPORT
    write_atomic(path, render(subject))
    return path


def render(subject: Subject) -> str:
    """The page of a run, a sweep or a table as HTML text; equal records give equal bytes."""
    if subject.kind == "run":
        ((_, run),) = subject.runs
        kind, name = f"Run, {words(run.status)}", str(subject.record.get("name") or run.id)
        first, rest = run_page.headline(run, subject.record)
        sections = run_page.body(subject)
        ids = tag("p", run.id, class_="kind") if name != run.id else Html("")
    else:
        pages = {"sweep": sweep_page, "table": table_page}[subject.kind]
        kind = f"Sweep, {subject.record.get('kind') or 'grid'}" if subject.kind == "sweep" else "Table"
        name, ids = subject.name, Html("")
        first, rest = pages.headline(subject)
        sections = pages.body(subject)
    top = tag(
        "header",
        tag("p", kind, class_="kind"),
        tag("h1", name),
        ids,
        tag("p", first, class_="headline") if first else Html(""),
        tag("p", rest, class_="verdict"),
    )
    footer = tag(
        "footer", f"Written by kdrun {__version__} from records on disk. Validation chose every epoch; test did not."
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{first or kind}: {name}"),
        tag("style", Html(CSS)),
    )
    main = tag("main", *sections)
    return f"<!doctype html>\n{tag('html', head, tag('body', top, main, footer), lang='en')}\n"
