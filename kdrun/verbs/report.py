"""kdrun report RUN|SWEEP|TABLE: one self-contained HTML page."""

from __future__ import annotations

from kdrun.files import dump_json, write_atomic
from kdrun.plots.subject import find_subject
from kdrun.report.page import render
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import one_word, outputs_folder, take_no

REPORT = "report.html"


def main(args: Arguments) -> int:
    """Write the page and print its path, or with --json {"path"}."""
    take_no(args, words=False)
    subject = find_subject(outputs_folder(args), [one_word(args, "page")], tables=True)
    path = subject.folder / REPORT
    write_atomic(path, render(subject))
    print(dump_json({"path": str(path)}) if args.json else path)
    return 0
