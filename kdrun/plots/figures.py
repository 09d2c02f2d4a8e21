"""The figures of a subject, and their files. matplotlib is imported when the first one is made."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdrun.plots.data import pairs_of, run_groups, run_points, runs_groups, runs_points
from kdrun.plots.subject import Subject
from kdrun.problems import UserError
from kdrun.records import better_of, metric_of

FIGURES = ("curves", "cost", "seeds", "hops", "tasks")
WHY = {
    "curves": "no metric over two epochs or more is recorded",
    "cost": "two different costs with a result are needed",
    "seeds": "no student beside a control is recorded",
}
"""Figure -> why there is none."""


def have_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


def need_matplotlib() -> None:
    """UserError without it."""
    if not have_matplotlib():
        raise UserError("kdrun plot needs matplotlib: pip install matplotlib")


def panels_of(subject: Subject) -> dict[str, list[Any]]:
    """Figure -> its panels; an empty list where records do not hold what it shows. UserError without matplotlib.

    `hops` is a key only where stages measured their gap, and `tasks` where tasks were learned one after another: other runs do not
    lack them.
    """
    need_matplotlib()
    from kdrun.plots.cost import cost_panels
    from kdrun.plots.curves import curve_panels
    from kdrun.plots.hops import hop_panels, read_hops
    from kdrun.plots.seeds import seed_panels
    from kdrun.plots.tasks import task_panels

    first = next((run.record or {} for _, run in subject.runs), {})
    metric = metric_of(first)
    if subject.kind == "run":
        (_, run), *_ = subject.runs
        curves, points, pairs = run_groups(run), run_points(run), [pairs_of(run)]
        hops, tasks = read_hops(run.record or {}), task_panels(run.record or {})
    else:
        curves, points = runs_groups(subject.runs), runs_points(subject.runs)
        pairs, hops = [pairs_of(run, label) for label, run in subject.runs], None
        tasks = []
    return {
        "curves": curve_panels(curves, better_of(first.get("summary") or {"metric": metric})),
        "cost": cost_panels(points, metric),
        "seeds": seed_panels([pair for pair in pairs if pair is not None], metric),
        **({"hops": found} if (found := hop_panels(hops)) else {}),
        **({"tasks": tasks} if tasks else {}),
    }


def write_figures(subject: Subject) -> tuple[list[Path], dict[str, str]]:
    """Write every figure as PNG and SVG into the `plots` folder of the subject.

    Returns the paths and, for each figure that could not be drawn, why. Figures of several runs lie beside those of the
    first one under names that tell which runs they show.
    """
    panels = panels_of(subject)
    from kdrun.plots.paper import save

    folder, paths, ending = subject.folder / "plots", [], ""
    if subject.kind == "runs":
        digest = hashlib.sha256(" ".join(run.id for _, run in subject.runs).encode()).hexdigest()
        ending = f"-{len(subject.runs)}-runs-{digest[:6]}"
    for name, found in panels.items():
        if found:
            paths += save(found, folder, f"{name}{ending}")
    return paths, {name: WHY[name] for name, found in panels.items() if not found}
