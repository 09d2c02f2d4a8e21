"""The panel at the end of a run: what came out, what it cost, where it is and what to type next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kdrun.measures import measure
from kdrun.parts import gains_of, has_last
from kdrun.present.console import Console, show_page
from kdrun.present.console import facts as fact_table
from kdrun.present.results import arm_label, distinct
from kdrun.present.units import share

COMBINED = "combined"
MOST_PARTS = 12


def show(console: Console, summary: dict[str, Any], facts: dict[str, str], copied: dict[str, str]) -> None:
    """Print the panel. facts: label -> text, in order, below the table (cost, audit); copied: below the panel."""
    body: list[RenderableType] = [results(summary), Text()]
    if any(arm.get("several") for arm in summary["arms"].values()):
        body += [parts(summary), Text(), gains(summary), Text()]
    body += [Text(summary["verdict"], style="bold"), Text(), details(summary, facts)]
    show_page(console, "kdrun", body, copied.items())


def results(summary: dict[str, Any]) -> Table:
    """Teacher and arms: test metric of the selected and of the last epoch, mean and sample deviation over seeds."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"{summary['split']} {measure(summary['metric']).title}")
    both = any(map(has_last, summary["arms"].values()))
    table.add_column("best epoch", justify="right")
    if both:
        table.add_column("last epoch", justify="right")
    table.add_column("seeds", justify="right")

    def add(label: str, best: str, last: str, count: str, **style: Any) -> None:
        table.add_row(label, best, *([last] if both else []), count, **style)

    teacher, figure = summary["teacher"], measure(summary["metric"]).figure
    if teacher is not None:
        best, last = (cell({"mean": teacher[which], "sd": None}, figure) for which in ("best", "last"))
        add(f"teacher {teacher['learner']}", best, last, str(teacher["n"]))
    for name, scores in summary.get("baselines", {}).items():
        if summary["metric"] in scores:
            value = cell({"mean": scores[summary["metric"]], "sd": None}, figure)
            add(name, value, value, "")
    for name, arm in sorted(distinct(summary["arms"]).items(), key=lambda item: item[0] != "alone"):
        add(arm_label(summary["arms"], name), cell(arm["best"], figure), cell(arm["last"], figure), seeds(arm))
        for name, value in arm.get("further", {}).items():
            add(f"  on {name}", cell(value, figure), "", "", style="dim")
    if "gap_closed" in summary:
        add("gap closed", *(share(summary["gap_closed"][which]) for which in ("best", "last")), "")
    return table


def parts(summary: dict[str, Any]) -> Table:
    """A row for each part (view, client ...) and for the one answer of all, a column for each arm; best epoch, mean over seeds."""
    order = {"alone": 0, "equal_compute": 1, "student": 3}  # what was there before to the left, the result to the right
    arms = dict(sorted(summary["arms"].items(), key=lambda item: order.get(item[0], 2)))
    arms = {name: arm for name, arm in arms.items() if arm.get("several")}
    found, figure = measure(summary["metric"]), measure(summary["metric"]).figure
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"{found.title} of each part")
    for arm in arms.values():
        table.add_column(arm["label"], justify="right", max_width=18)
    names = list(dict.fromkeys(name for arm in arms.values() for name in arm["several"]))
    for name in (*names[:MOST_PARTS], COMBINED):
        label = "all together" if name == COMBINED else name
        values = [{**(arm.get("parts") or {}), **arm["several"]}.get(name) for arm in arms.values()]
        if any(values):
            table.add_row(label, *("" if value is None else cell(value, figure) for value in values))
    if len(names) > MOST_PARTS:
        table.add_row(f"and {len(names) - MOST_PARTS} more", *("" for _ in arms))
    return table


def gains(summary: dict[str, Any]) -> Table:
    """A row for each arm whose result has several parts: points that these gained over being alone; and of networks that send
    something what travelled, of gated ones the mean trust in samples (with right / with wrong labels) and the share of samples
    that was trusted less than half."""
    rows = []
    for name, arm in summary["arms"].items():
        if not (gained := gains_of(arm)):
            continue
        found = [gained["delta"].get(key) for key in ("avg", "worst", "p10")]
        shown = ["" if name == "alone" else "n/a" if gain is None else cell(gain, _points) for gain in found]
        sent = [(gained.get("bytes") or {}).get(way, 0) for way in ("up", "down")]
        gate = gained.get("gate") or {}
        trust = [gate[key] for key in ("gate_clean", "gate_corrupted") if gate.get(key) is not None]
        megabytes = "" if not gained.get("bytes") else "n/a" if None in sent else f"{sum(sent) / 1e6:.2f}"
        gated = "" if gate.get("gated") is None else f"{100 * gate['gated']:.0f} %"
        rows.append((arm["label"], *shown, megabytes, " / ".join(f"{value:.2f}" for value in trust), gated))
    names = ("points over alone", "mean", "worst", "p10", "sent, MB", "trust", "gated")
    used = [place for place in range(len(names)) if place < 4 or any(row[place] for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place in used:
        table.add_column(names[place], justify="right" if place else "left")
    for row in rows:
        table.add_row(*(row[place] for place in used))
    return table


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def decided(summary: dict[str, Any]) -> dict[str, str]:
    """`best view` -> `bone (seeds 0, 2), lung (seed 1), by AUC on validation`."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in summary.get("decisions", ()):
        found.setdefault(one["what"], {}).setdefault(one["chosen"], []).append(str(one["seed"]))
    by = {one["what"]: measure(one["metric"]).label for one in summary.get("decisions", ())}
    return {
        what: ", ".join(f"{name} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})" for name, seeds in chosen.items())
        + f", by {by[what]} on validation"
        for what, chosen in found.items()
    }


def details(summary: dict[str, Any], facts: dict[str, str]) -> Table:
    """Two columns of facts."""
    rows: list[tuple[str, str | Text]] = []
    if summary["teacher"] is not None:
        shared = summary.get("shared_parameters")
        beside = f" (without the {shared:,} of the frozen tower that both have)" if shared else ""
        sizes = f"{times(summary.get('parameters_ratio'))} the parameters{beside}"
        rows.append(("teacher / student", f"{sizes}, {times(summary.get('flops_ratio'))} the FLOPs"))
    for arm, found in summary.get("differences", {}).items():
        if arm != "alone" and not summary["arms"][arm].get("same_as"):
            rows.append(("student minus", f"{summary['arms'][arm]['label']}: {points(found['best'])}"))
    rows += decided(summary).items()
    for seed, error in missing(summary).items():
        rows.append((f"seed {seed}", Text(f"{error['status']}: {error['type']}: {error['message']}", style="red")))
    rows += [(measure(name).label, text) for name, text in summary.get("notes", {}).items()]
    return fact_table([*rows, *facts.items()])


def seeds(arm: dict[str, Any]) -> str:
    """`5`, or `4 of 5` where one is missing."""
    return str(arm["n"]) if arm["n"] == arm.get("of", arm["n"]) else f"{arm['n']} of {arm['of']}"


def missing(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """seed -> why it has no result in some arm."""
    return {seed: error for arm in summary["arms"].values() for seed, error in arm.get("missing", {}).items()}


def points(found: dict[str, Any]) -> str:
    """`+1.20 points (bootstrap -0.10 to +2.40)` of a paired difference."""
    text = f"{100 * found['mean']:+.2f} points"
    if found["interval"] is None:
        return text
    return text + " (bootstrap {:+.2f} to {:+.2f})".format(*(100 * value for value in found["interval"]))


def cell(value: dict[str, Any], figure: Callable[[float], str] | None = None) -> str:
    """`97.41 ± 0.32`; no deviation where there is only one seed."""
    figure = figure or measure("accuracy").figure
    text = figure(value["mean"])
    return text if value["sd"] is None else f"{text} ± {figure(value['sd'])}"


def times(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}x"
