"""kdrun plot RUN...: figures of a run, of several runs or of a sweep, as PNG and SVG; kind=windows, kind=episodes: test samples
of one run; kind=card: of scorecards; kind=generalisation: of what kdrun diagnose has measured."""

from __future__ import annotations

import sys
from pathlib import Path

from kdrun.files import dump_json
from kdrun.plots.figures import FIGURES, need_matplotlib, write_figures
from kdrun.plots.subject import Subject, find_subject, runs_of
from kdrun.problems import UserError, closest, listed
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder
from kdrun.words import options_in, whole_number

WINDOWS, EPISODES, CARD, GENERALISATION = "windows", "episodes", "card", "generalisation"
KINDS = (*FIGURES, WINDOWS, EPISODES, CARD, GENERALISATION)
OF_SAMPLES = {WINDOWS: ("kind", "method", "rows", "seed"), EPISODES: ("kind", "rows", "seed")}
"""Kind of figure of test samples of one run -> its options."""
OF_TABLES = (CARD, GENERALISATION)
ABSENT = {
    "hops": "no stage measured its gap (trainer.gap)",
    "tasks": "no tasks were learned one after another (strategy=continual)",
}
OPTIONS = ("kind", "method", "rows", "seed")


def main(args: Arguments) -> int:
    """Write the figures and print their paths, or with --json {"files", "left_out": {figure: why}}."""
    options = _options(args)
    kind = options.get("kind")
    subject = find_subject(outputs_folder(args), args.words, tables=kind in OF_TABLES)
    if kind in OF_SAMPLES:
        paths, left_out = [_of_samples(str(kind), subject, options)], {}
    elif kind in OF_TABLES:
        paths, left_out = _of_runs(kind, subject, outputs_folder(args)), {}
    else:
        paths, left_out = write_figures(subject)
    if kind in FIGURES:
        paths = [path for path in paths if path.stem == kind or path.stem.startswith(f"{kind}-")]
        left_out = {name: why for name, why in left_out.items() if name == kind}
    if not paths:
        why = "; ".join(dict.fromkeys(left_out.values())) or ABSENT.get(str(kind), "")
        raise UserError(f"nothing to draw of {subject.name} yet: {why}")
    if args.json:
        print(dump_json({"files": [str(path) for path in paths], "left_out": left_out}))
        return 0
    for path in paths:
        print(path)
    for name, why in left_out.items():
        print(f"no {name}: {why}", file=sys.stderr)
    return 0


def _options(args: Arguments) -> dict[str, str]:
    """kind, and of figures of test samples their options. UserError for any other KEY=VALUE."""
    options = options_in(args.overrides, OPTIONS)
    kind = options.get("kind")
    if "kind" in options and kind not in KINDS:
        raise UserError(f"kind={kind}: no such figure{closest(str(kind), KINDS)}", f"there is: {listed(KINDS)}")
    if extra := [word for word in options if word not in OF_SAMPLES.get(str(kind), ("kind",))]:
        of = [name for name, allowed in OF_SAMPLES.items() if extra[0] in allowed]
        raise UserError(
            f"{extra[0]}={options[extra[0]]} belongs to kind={' and kind='.join(of)}", "see kdrun plot --help"
        )
    return options


def _of_runs(kind: str, subject: Subject, outputs: Path) -> list[Path]:
    """A figure of what another command has measured of runs."""
    from kdrun.plots.card import write_card
    from kdrun.plots.generalisation import write_generalisation

    need_matplotlib()
    write = write_card if kind == CARD else write_generalisation
    return write(subject, runs_of(subject, outputs))


def _of_samples(kind: str, subject: Subject, options: dict[str, str]) -> Path:
    if subject.kind != "run":
        what = subject.name if subject.kind == "runs" else f"the {subject.kind} {subject.name}"
        raise UserError(f"kind={kind} is of one run at a time; given: {what}")
    need_matplotlib()
    numbers = {name: whole_number(options, name) for name in ("rows", "seed") if name in options}
    ((_, run),) = subject.runs
    if kind == EPISODES:
        from kdrun.plots.episodes import write_episodes

        return write_episodes(run, **numbers)
    from kdrun.plots.sheets import write_sheet

    return write_sheet(run, method=options.get("method", "grad_cam"), **numbers)
