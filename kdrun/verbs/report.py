"""kdrun report RUN|SWEEP|TABLE: one self-contained HTML page."""

from __future__ import annotations

from kdrun.files import dump_json
from kdrun.plots.subject import find_subject
from kdrun.report.page import write
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import one_word, outputs_folder, take_no


def main(args: Arguments) -> int:
    """Write the page and print its path, or with --json {"path"}."""
    take_no(args, words=False)
    path = write(find_subject(outputs_folder(args), [one_word(args, "page")], tables=True))
    print(dump_json({"path": str(path)}) if args.json else path)
    return 0
