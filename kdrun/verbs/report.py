"""kdrun report RUN|SWEEP|TABLE: one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdrun.files import dump_json, write_atomic
from kdrun.plots.subject import find_subject
from kdrun.problems import UserError
from kdrun.report.page import render
from kdrun.verbs.runs import outputs_folder, take_no

if TYPE_CHECKING:
    from kdrun.verbs.arguments import Arguments

REPORT = "report.html"


def main(args: Arguments) -> int:
    """Write the page and print its path, or with --json {"path"}."""
    take_no(args, words=False)
    if len(args.words) > 1:
        raise UserError(f"one page at a time; given: {', '.join(args.words)}")
    subject = find_subject(outputs_folder(args), args.words, tables=True)
    path = subject.folder / REPORT
    write_atomic(path, render(subject))
    print(dump_json({"path": str(path)}) if args.json else path)
    return 0
