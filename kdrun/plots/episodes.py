"""Screens of test with the action that an agent took on each: which samples, and how they are drawn (`kdrun plot RUN kind=episodes`)."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from kdrun.files import write_atomic
from kdrun.parts import headline_epoch
from kdrun.problems import UserError, listed

if TYPE_CHECKING:
    from kdrun.tracking.registry import RunInfo

ROWS, COLUMNS, LETTERS = 8, 4, 30
RIGHT, WRONG, VALID = "#009e73", "#d55e00", "#0072b2"
NAME = "episodes"


def write_episodes(run: RunInfo, *, rows: int = ROWS, seed: int | None = None) -> Path:
    """Draw `plots/episodes.png` of a run and return its path; other seeds have a name of their own.

    rows: how many screens, at most: as many wrong as right ones as far as there are, evenly spread over test. seed: default, the first that
    has a result. Raises UserError for a run whose student is no agent, a seed without a result, and data that are other ones now.
    """
    from kdrun.domains.answers.screen import Screen, action_of
    from kdrun.hardware.exports.subjects import data_of, stage_folder
    from kdrun.learning.resampling import has_own_last, read_samples

    if rows < 1:
        raise UserError(f"rows={rows}: at least one screen")
    stage = _stage(run, seed)
    last = headline_epoch((run.record or {}).get("summary") or {}) == "last" and has_own_last(stage)
    said = [row for row in read_samples(stage_folder(run, stage), last=last) if "text" in row]
    module = data_of(run, stage)
    known = _screens(module, said, Screen)
    if not known:
        raise UserError(
            f"kind=episodes is of agents that act on screens (data=forms, data=miniwob); {run.id} has none",
            f"kdrun plot {run.id} (curves, cost, seeds)",
        )
    chosen = _spread(said, rows)
    episodes = [(known[row["id"]], action_of(row["text"]), bool(row["right"])) for row in chosen]
    first = _stage(run, None)["seed"]
    name = NAME if stage["seed"] == first else f"{NAME}-seed-{stage['seed']}"
    path = run.dir / "plots" / f"{name}.png"
    share = sum(bool(row["right"]) for row in said) / len(said)
    heading = f"{(run.record or {}).get('name') or run.id}, seed {stage['seed']}: {share:.0%} of {len(said)} test screens right"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sheet(episodes, heading))
    return path


def _stage(run: RunInfo, seed: int | None) -> dict[str, Any]:
    """The stage of the student with this seed; of a run without a teacher the student alone."""
    stages = (run.record or {}).get("stages") or []
    roles = [stage["role"] for stage in stages]
    role = "student" if "student" in roles else "alone"
    own = {stage["seed"]: stage for stage in stages if stage["role"] == role}
    if not own:
        raise UserError(f"{run.id} ({run.status}) has no result yet", f"to continue it: kdrun rerun {run.id}")
    if seed is not None and seed not in own:
        raise UserError(f"{run.id} has no result of seed {seed}; it has: {listed(map(str, own))}")
    return own[next(iter(own)) if seed is None else seed]


def _screens(module: Any, said: list[dict[str, Any]], kind: type) -> dict[int, Any]:
    """Id of a row -> its screen; {} where the data have none."""
    from kdrun.domains.language.rows import PIECES

    source = getattr(module, "source", None)
    if getattr(source, "known", None) is None or not said:
        return {}
    found = {row["id"]: source.told(row["id"] // PIECES) for row in said}
    return found if all(isinstance(one, kind) for one in found.values()) else {}


def _spread(said: list[dict[str, Any]], rows: int) -> list[dict[str, Any]]:
    """At most so many rows: half of them wrong, half right, as far as there are, each half evenly spread; wrong ones first."""
    halves = [[row for row in said if bool(row["right"]) is right] for right in (False, True)]
    counts = [min(len(halves[0]), rows // 2 + rows % 2), min(len(halves[1]), rows // 2)]
    counts = [min(len(half), count + rows - sum(counts)) for half, count in zip(halves, counts, strict=True)]
    chosen: list[dict[str, Any]] = []
    for half, count in zip(halves, counts, strict=True):
        places = np.unique(np.linspace(0, len(half) - 1, count).round().astype(int)) if count else []
        chosen += [half[place] for place in places]
    return chosen[:rows]


def sheet(episodes: list[tuple[Any, Any, bool]], heading: str) -> bytes:
    """PNG of (screen, action or None where there was no such, whether it was right): valid elements have a dashed frame, a click is a point
    in a circle, and what was typed stands beside it."""
    import matplotlib.pyplot as plt

    from kdrun.plots.paper import page, png

    columns = min(COLUMNS, len(episodes))
    lines = -(-len(episodes) // columns)
    with page():
        figure, grid = plt.subplots(lines, columns, figsize=(1.75 * columns, 2.55 * lines + 0.5), squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, episode in zip(grid.flat, episodes, strict=False):
            _draw(axes, *episode)
        figure.suptitle(fill(heading, 34 * columns), fontsize=7, x=0.02, ha="left")
        figure.text(0.02, 0.005, "Dashed: what is right here. Circle: what the agent did.", fontsize=6, va="bottom")
        figure.subplots_adjust(
            left=0.02, right=0.98, top=1 - 0.5 / (2.55 * lines + 0.5), bottom=0.04, hspace=0.12, wspace=0.1
        )
        content = png(figure)
        plt.close(figure)
    return content


def _draw(axes: Any, screen: Any, action: Any, right: bool) -> None:
    import matplotlib.patches as patches

    image, boxes = screen.picture()
    axes.imshow(np.asarray(image), interpolation="nearest")
    for name in dict.fromkeys(valid.element for valid in screen.valid()):
        left, top, width, height = boxes[name]
        axes.add_patch(
            patches.Rectangle(
                (left - 1, top - 1),
                width + 2,
                height + 2,
                fill=False,
                edgecolor=VALID,
                linewidth=0.9,
                linestyle=(0, (3, 2)),
            )
        )
    colour = RIGHT if right else WRONG
    if action is not None and action.element in boxes:
        left, top, width, height = boxes[action.element]
        x, y = left + width / 2, top + height / 2
        axes.plot(
            [x], [y], marker="o", markersize=9, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.6
        )
        axes.plot([x], [y], marker=".", markersize=3, color=colour)  # what is written there stays legible
    axes.set_title(
        f"{'right' if right else 'wrong'}: {fill(_words(action, boxes), LETTERS)}",
        fontsize=6,
        color=colour,
        loc="left",
        pad=2,
    )
    axes.add_patch(patches.Rectangle((-0.5, -0.5), *image.size, fill=False, edgecolor=colour, linewidth=1.2))


def _words(action: Any, boxes: Any) -> str:
    if action is None:
        return "no action that can be read"
    there = "" if action.element in boxes else " (not on the screen)"
    typed = f" {action.text!r} into" if action.kind == "type" else ""
    return f"{action.kind}{typed} {action.element}{there}"
