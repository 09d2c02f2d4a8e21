"""The capacity gap, hop by hop: distance to whoever teaches before and after, accuracy after, and what was learned by heart.

A hop is a stage that measured its gap (`trainer.gap`): one teacher, or several at once, teaching one student.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from kdrun.files import number
from kdrun.plots import paper
from kdrun.plots.data import result_of
from kdrun.plots.paper import COLOURS, FAINT, INK, KINDS, PAPER, Panel, axis_name, log_axis, mark, quiet_grid, scale_of
from kdrun.records import arms_of, metric_of

OWN = "student"
LOOKS = (
    (COLOURS[5], "s"), (COLOURS[1], "D"), (COLOURS[3], "v"), (COLOURS[4], "P"),
    (INK, "X"), (COLOURS[5], "<"), (COLOURS[1], ">"), (COLOURS[3], "p"),
)  # fmt: skip
"""Of arms that have no colour of their own in every figure."""

APART = 0.15
"""Distance of arms that share a teacher, as a part of the distance between teachers."""

TICK_LETTERS = 7
TAUGHT = ("taught", "guided")
"""Words in the roles of assistants that were not trained on labels alone."""


@dataclass
class Hop:
    """One hop of one arm over its seeds.

    teacher  what to call who taught: `resnet8`, `taught resnet8`, `3 at once`
    values   seed -> {"before", "after": mean KL from the teacher in nats, "best", "last": test metric, "apart": train minus
             validation of `Hops.compared`}; what a record does not hold is left out
    """

    arm: str
    role: str
    teacher: str
    values: dict[int, dict[str, float]] = field(default_factory=dict)

    def of(self, figure: str) -> list[float]:
        return [found[figure] for found in self.values.values() if figure in found]


@dataclass
class Hops:
    """All hops of a run. metric: of test; compared: of train and validation, None where no metric is in both."""

    hops: list[Hop]
    metric: str
    compared: str | None
    seeds: int

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(hop.arm for hop in self.hops))

    @property
    def teachers(self) -> list[str]:
        """In the order of the student's own hops, then as they appear."""
        own = [hop.teacher for hop in self.hops if hop.arm == OWN]
        return list(dict.fromkeys([*own, *(hop.teacher for hop in self.hops)]))


def read_hops(record: dict[str, Any]) -> Hops | None:
    """The hops of a run record in the order in which they were made; None where no stage measured its gap."""
    stages = [stage for stage in record.get("stages") or [] if stage.get("gap")]
    if not stages:
        return None
    metric, controls = metric_of(record), _controls(record)
    compared = _compared(stages, metric)
    known = {stage.get("fingerprint"): stage for stage in record["stages"]}
    found: dict[str, Hop] = {}
    for stage in stages:
        role = stage["role"]
        arm = next((name for name in controls if role == name or role.startswith(f"{name}_grade")), OWN)
        hop = found.setdefault(role, Hop(arm, role, _teacher(stage, known)))
        hop.values[stage["seed"]] = _values(stage, metric, compared)
    for arm, stage in _shared(record, metric):
        hop = found.setdefault(arm, Hop(arm, arm, _teacher(stage, known)))
        hop.values[stage["seed"]] = _values(stage, metric, compared)
    hops = sorted(found.values(), key=lambda hop: hop.arm != OWN)
    return Hops(hops, metric, compared, len(record.get("seeds") or []) or max(len(hop.values) for hop in hops))


def _shared(record: dict[str, Any], metric: str) -> list[tuple[str, dict[str, Any]]]:
    """(arm, stage) where an arm ended in a hop that is listed under another role, as one stage is fitted once: found by
    its results and its selected epoch."""
    found, stages = [], record["stages"]
    roles = {(stage["role"], stage["seed"]) for stage in stages}
    for arm, entry in arms_of(record).items():
        for seed, result in (entry.get("seeds") or {}).items():
            if (arm, int(seed)) in roles:
                continue
            same = [stage for stage in stages if stage["seed"] == int(seed) and _ended(stage, result, metric)]
            if len(same) == 1 and same[0].get("gap"):
                found.append((arm, same[0]))
    return found


def _ended(stage: dict[str, Any], result: dict[str, Any], metric: str) -> bool:
    figures = all(result_of(stage, "test", metric, which) == number(result.get(which)) for which in ("best", "last"))
    return figures and (stage.get("val") or {}).get("epoch_best") == result.get("epoch_best")


def _controls(record: dict[str, Any]) -> list[str]:
    strategy = (record.get("config") or {}).get("strategy") or {}
    names = {*arms_of(record), *(strategy.get("controls") or [])} - {OWN}
    return sorted(names, key=len, reverse=True)  # plain_kd_equal before plain_kd


def _compared(stages: list[dict[str, Any]], metric: str) -> str | None:
    """The metric of train and validation: the run's own, or the nearest that one forward pass can tell."""
    for name in (metric, "accuracy", "token_accuracy", "loss"):
        if any(
            name in (stage["gap"].get("train") or {}) and name in (stage["gap"].get("val") or {}) for stage in stages
        ):
            return name
    return None


def _teacher(stage: dict[str, Any], known: dict[str, Any]) -> str:
    notes = stage.get("teacher") or {}
    taught_by = [known.get(one.get("fingerprint")) or {} for one in (notes, *(notes.get("also") or ()))]
    how = [next((word for word in TAUGHT if (one.get("role") or "").startswith(f"{word}_")), "") for one in taught_by]
    if len(taught_by) == 1:
        return f"{how[0]} {taught_by[0].get('learner') or 'unknown'}".strip()
    return f"{len(taught_by)} {'guided' if any(how) else 'at once'}"


def _values(stage: dict[str, Any], metric: str, compared: str | None) -> dict[str, float]:
    gap = stage["gap"]
    train, val = (number((gap.get(split) or {}).get(compared)) for split in ("train", "val"))
    values = {
        "before": number(gap.get("kl_before")),
        "after": number(gap.get("kl_after")),
        "best": result_of(stage, "test", metric),
        "last": result_of(stage, "test", metric, "last"),
        "apart": None if train is None or val is None else train - val,
    }
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


# drawing


def hop_panels(hops: Hops | None) -> list[Panel]:
    """Distance to the teacher, test metric, and train minus validation; a panel without any value is left out."""
    if hops is None:
        return []
    kinds = {
        "distance": ("mean KL from the teacher, before and after the hop", ("before", "after"), _distance),
        "result": (f"{axis_name(hops.metric)} after the hop", ("best", "last"), _result),
        "apart": (f"train minus validation {_words(hops.compared)}", ("apart",), _apart),
    }
    height = 2.4 + 0.12 * max(name.count("\n") for name in _ticks(hops)[0])
    return [
        Panel(f"hops_{name}", f"{title}; {_alt(hops, figures)}", lambda ax, draw=draw: draw(ax, hops), height)
        for name, (title, figures, draw) in kinds.items()
        if any(hop.of(figure) for hop in hops.hops for figure in figures)
    ]


def _alt(hops: Hops, figures: tuple[str, ...]) -> str:
    texts = []
    for hop in hops.hops:
        values = " to ".join(f"{statistics.fmean(hop.of(f)):.4g}" if hop.of(f) else "n/a" for f in figures)
        texts.append(f"{_words(hop.arm)} from {hop.teacher}: {values}")
    return "; ".join(texts)


def _distance(ax: Axes, hops: Hops) -> dict[str, Any]:
    every = [value for hop in hops.hops for value in (*hop.of("before"), *hop.of("after"))]
    wide = min(every) > 0 and max(every) / min(every) > 20
    for hop, x, (colour, marker) in _places(hops):
        ends = [statistics.fmean(hop.of(figure)) for figure in ("before", "after") if hop.of(figure)]
        ax.plot([x] * len(ends), ends, color=colour, alpha=0.35, linewidth=2.2, zorder=2)
        _mark(ax, x, hop.of("before"), colour, marker, fill=PAPER)
        _mark(ax, x, hop.of("after"), colour, marker)
    _teacher_axis(ax, hops)
    ax.set_ylabel(f"KL from the teacher (nats{', log scale' if wide else ''})")
    if wide:
        log_axis(ax.yaxis, every)
    else:
        ax.set_ylim(0, ax.get_ylim()[1])  # a distance: 0 is where the teacher is
    return {
        **_legend(hops),
        "before the hop": mark("o", FAINT, markerfacecolor=PAPER),
        "after it, at the selected epoch": mark("o", FAINT),
    }


def _result(ax: Axes, hops: Hops) -> dict[str, Any]:
    scale, lines = scale_of(hops.metric), defaultdict(list)
    for hop, x, (colour, marker) in _places(hops):
        best = [scale * value for value in hop.of("best")]
        _mark(ax, x, best, colour, marker)
        if last := hop.of("last"):
            ax.plot(x, scale * statistics.fmean(last), "_", color=colour, markersize=9, markeredgewidth=1.3, zorder=3)
        if best:
            lines[hop.arm, colour].append((x, statistics.fmean(best)))
    for (_, colour), points in lines.items():
        ax.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, alpha=0.6, zorder=1)
    paper.metric_axis(ax, hops.metric)
    _teacher_axis(ax, hops)
    return {**_legend(hops), "last epoch": mark("_", FAINT, markersize=9)}


def _apart(ax: Axes, hops: Hops) -> dict[str, Any]:
    assert hops.compared is not None, "a panel is made only of values"
    scale = scale_of(hops.compared)
    for hop, x, (colour, marker) in _places(hops):
        _mark(ax, x, [scale * value for value in hop.of("apart")], colour, marker)
    ax.axhline(0, color=INK, linewidth=0.6, zorder=1)
    _teacher_axis(ax, hops)
    unit = " (points)" if scale == 100 else " (nats)" if hops.compared == "loss" else ""
    ax.set_ylabel(f"train − validation {_words(hops.compared)}{unit}")
    return _legend(hops)


def _mark(ax: Axes, x: float, values: list[float], colour: str, marker: str, fill: str | None = None) -> None:
    """The mean over seeds and, from two seeds on, their range. Nothing where there is no value."""
    if not values:
        return
    mean = statistics.fmean(values)
    if len(values) > 1:
        ax.plot([x, x], [min(values), max(values)], color=colour, linewidth=0.8, zorder=3)
    ax.plot(x, mean, marker, color=colour, markerfacecolor=fill or colour, markersize=4.5, zorder=4)


def _places(hops: Hops) -> list[tuple[Hop, float, tuple[str, str]]]:
    """(hop, place on the axis, (colour, marker)): arms under the same teacher stand side by side."""
    looks, free = {}, iter(2 * LOOKS)
    for arm in hops.arms:
        colour, _, marker = KINDS.get(arm) or (None, None, None)
        looks[arm] = (colour, marker) if colour else next(free)
    found = []
    for index, teacher in enumerate(hops.teachers):
        here = [hop for hop in hops.hops if hop.teacher == teacher]
        step = min(APART, 0.8 / len(here))
        for position, hop in enumerate(here):
            found.append((hop, index + step * (position - (len(here) - 1) / 2), looks[hop.arm]))
    order = {id(hop): position for position, hop in enumerate(hops.hops)}
    return sorted(found, key=lambda place: order[id(place[0])])


def _teacher_axis(ax: Axes, hops: Hops) -> None:
    names, shared = _ticks(hops)
    ax.set_xticks(range(len(names)), names, fontsize=7 if len(names) < 6 else 6)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel(f"teacher {shared}…" if shared else "teacher")
    quiet_grid(ax)


def _ticks(hops: Hops) -> tuple[list[str], str]:
    """Names of teachers in lines of about TICK_LETTERS, without the beginning (`llava_`) that all of them share."""
    learners = [name.rpartition(" ")[2] for name in hops.teachers if "_" in name or " " not in name]
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*learners, strict=False))
    start = "".join("".join(letters[0] for letters in columns).rpartition("_")[:2]) if len(learners) > 1 else ""
    names = []
    for name in hops.teachers:
        lines = [""]
        for piece in re.findall(r"[^_ ]+[_ ]*", name.replace(start, "", 1)):
            if lines[-1] and len(lines[-1]) + len(piece.strip()) > TICK_LETTERS:
                lines.append("")
            lines[-1] += piece
        names.append("\n".join(line.strip() for line in lines))
    return names, start


def _legend(hops: Hops) -> dict[str, Any]:
    looks = {hop.arm: look for hop, _, look in _places(hops)}
    legend: dict[str, Any] = {}
    for arm, (colour, marker) in looks.items():
        found = [len(hop.values) for hop in hops.hops if hop.arm == arm]
        n = str(found[0]) if len(set(found)) == 1 else f"{min(found)} to {max(found)}"
        whole = set(found) == {hops.seeds}
        legend[f"{_words(arm)} (n = {n}{'' if whole else f' of {hops.seeds}'})"] = mark(marker, colour)
    if any(len(hop.values) > 1 for hop in hops.hops):
        legend["bar: range over seeds"] = Line2D([], [], color=FAINT, linewidth=0.8)
    return legend


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ").replace(" kd", " KD")
