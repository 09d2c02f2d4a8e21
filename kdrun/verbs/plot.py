"""kdrun plot RUN...: figures of a run, of several runs or of a sweep, as PNG and SVG."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kdrun.files import dump_json
from kdrun.plots.figures import write_figures
from kdrun.plots.subject import find_subject
from kdrun.problems import UserError
from kdrun.verbs.runs import outputs_folder, take_no

if TYPE_CHECKING:
    from kdrun.cli import Arguments


def main(args: Arguments) -> int:
    """Write the figures and print their paths, or with --json {"files", "left_out": {figure: why}}."""
    take_no(args, words=False)
    subject = find_subject(outputs_folder(args), args.words)
    paths, left_out = write_figures(subject)
    if not paths:
        raise UserError(f"nothing to draw of {subject.name} yet: {'; '.join(dict.fromkeys(left_out.values()))}")
    if args.json:
        print(dump_json({"files": [str(path) for path in paths], "left_out": left_out}))
        return 0
    for path in paths:
        print(path)
    for name, why in left_out.items():
        print(f"no {name}: {why}", file=sys.stderr)
    return 0
