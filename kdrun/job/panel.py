"""The panel at the end of a run: what came out, what it cost, where it is and what to type next."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kdrun.job.absent import absent_rows
from kdrun.job.clusters import cluster_rows
from kdrun.measures import measure
from kdrun.parts import against, gains_of, headline_epoch
from kdrun.present.console import Console, columns, dim, show_page
from kdrun.present.console import facts as fact_table
from kdrun.present.results import (
    difference_texts,
    figure_text,
    is_points,
    judged_rows,
    missing_rows,
    result_rows,
    seen_rows,
    task_rows,
    transfer_head,
    transfer_rows,
    vary_text,
)
from kdrun.present.units import MISSING
from kdrun.records import before_and_after

COMBINED = "combined"
MOST_PARTS, MOST_TASKS, LONGEST_TASK = 12, 8, 16


def show(console: Console, summary: dict[str, Any], facts: dict[str, str], copied: dict[str, str]) -> None:
    """Print the panel. facts: label -> text, in order, below the table (cost, audit); copied: below the panel."""
    head = (f"{summary['split']} {measure(summary['metric']).title}", "best epoch", "last epoch", "seeds")
    body: list[RenderableType] = [columns(head, result_rows(summary, figure_text)), Text()]
    if tasks := task_rows(summary):
        body += task_table(tasks) if len(tasks[0]) <= MOST_TASKS else []
        body += [columns(transfer_head(summary), transfer_rows(summary)), Text()]
    elif any(arm.get("several") for arm in summary["arms"].values()):
        body += [parts(summary), Text()]
        body += [gains(summary), Text()] if any(map(gains_of, summary["arms"].values())) else []
    body += [Text(summary["verdict"], style="bold"), Text(), details(summary, facts)]
    show_page(console, "kdrun", body, copied.items())


def task_table(rows: list[tuple[str, ...]]) -> list[RenderableType]:
    """A column for each task, of which long names stand below. rows: of task_rows."""
    (first, *names), longest = rows[0], max(map(len, rows[0][1:]))
    if longest <= LONGEST_TASK:
        return [columns(rows[0], rows[1:]), Text()]
    short = [name.partition(" (")[0] for name in names]
    told = ", ".join(name.removeprefix("task ").replace(" (", " ").removesuffix(")") for name in names)
    return [columns((first, *short), rows[1:]), dim(f"tasks: {told}"), Text()]


def parts(summary: dict[str, Any]) -> Table:
    """A row for each part (view, client ...) and for the one answer of all, a column for each arm; best epoch, mean over seeds."""
    arms = {name: summary["arms"][name] for name in before_and_after(summary["arms"])}
    arms = {name: arm for name, arm in arms.items() if arm.get("several")}
    metric, rows = summary["metric"], []
    sizes = (summary["arms"].get("student") or {}).get("sizes") or {}
    names = list(dict.fromkeys(name for arm in arms.values() for name in arm["several"]))
    for name in (*names[:MOST_PARTS], COMBINED):
        label = (
            "all together" if name == COMBINED else f"{name} ({sizes[name]:,.0f} parameters)" if name in sizes else name
        )
        values = [{**(arm.get("parts") or {}), **arm["several"]}.get(name) for arm in arms.values()]
        if any(values):
            rows.append((label, *("" if value is None else figure_text(value, metric) for value in values)))
    if any(read := [arm.get("trained_on") for arm in arms.values()]):
        unit = next(amount["unit"] for amount in read if amount)
        rows.append(
            (f"{unit} that all were trained on", *("" if one is None else f"{one['mean']:,.0f}" for one in read))
        )
    if len(names) > MOST_PARTS:
        rows.append((f"and {len(names) - MOST_PARTS} more", *("" for _ in arms)))
    return columns([f"{measure(metric).title} of each part", *(arm["label"] for arm in arms.values())], rows)


def gains(summary: dict[str, Any]) -> Table:
    """A row for each arm whose result has several parts: points that these gained over being alone; and of networks that send
    something what travelled, of gated ones the mean trust in samples (with right / with wrong labels) and the share of samples
    that was trusted less than half; of clusters how many, and their adjusted Rand index against the groups that are hidden in the data."""
    rows = []
    for name, arm in summary["arms"].items():
        if not (gained := gains_of(arm)):
            continue
        found = [gained["delta"].get(key) for key in ("avg", "worst", "p10")]
        shown = ["" if name == "alone" else MISSING if gain is None else gain_text(gain) for gain in found]
        sent = [(gained.get("bytes") or {}).get(way, 0) for way in ("up", "down")]
        gate = gained.get("gate") or {}
        trust = [gate[key] for key in ("gate_clean", "gate_corrupted") if gate.get(key) is not None]
        megabytes = "" if not gained.get("bytes") else MISSING if None in sent else f"{sum(sent) / 1e6:.2f}"
        clusters = gained.get("clusters") or {}
        found_by = [
            f"{clusters['count']:g}" if clusters else "",
            "" if clusters.get("agreement") is None else f"{clusters['agreement']:.2f}",
        ]
        gated = "" if gate.get("gated") is None else f"{100 * gate['gated']:.0f} %"
        row = (*shown, megabytes, " / ".join(f"{value:.2f}" for value in trust), gated, *found_by)
        if any(row):  # clients alone have gained nothing over themselves and sent nothing
            rows.append((arm["label"], *row))
    names = ("points over alone", "mean", "worst", "p10", "sent, MB", "trust", "gated", "clusters", "Rand")
    used = [place for place in range(len(names)) if place < 4 or any(row[place] for row in rows)]
    return columns([names[place] for place in used], [[row[place] for place in used] for row in rows])


def gain_text(gain: dict[str, Any]) -> str:
    """`+1.20 ± 0.10`"""
    return f"{100 * gain['mean']:+.2f}" + ("" if gain["sd"] is None else f" ± {100 * gain['sd']:.2f}")


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
        if sizes := (summary["arms"].get("student") or {}).get("sizes"):
            ratios = [
                times(summary["teacher"]["parameters"] / size) for size in (max(sizes.values()), min(sizes.values()))
            ]
            rows.append(("teacher / student", f"{ratios[0]} to {ratios[1]} the parameters"))
        else:
            ratio = f"{times(summary.get('parameters_ratio'))} the parameters{beside}"
            rows.append(("teacher / student", f"{ratio}, {times(summary.get('flops_ratio'))} the FLOPs"))
    rows += judged_rows(summary)
    rows += [("student's seed", text)] if (text := vary_text(summary.get("vary"))) else []
    rows += [(f"trained: {who}", text) for who, text in seen_rows(summary)]
    rows += student_minus(summary)
    rows += [*cluster_rows(summary), *absent_rows(summary)]
    rows += decided(summary).items()
    rows += [(seed, Text(text, style="red")) for seed, text in missing_rows(summary)]
    rows += [(measure(name).label, text) for name, text in summary.get("notes", {}).items()]
    return fact_table([*rows, *facts.items()])


def student_minus(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """("student minus", "student alone: +1.91 ± 2.35 points, 95 % interval -1.01 to +4.84, p 0.145, better in 84 % of pairs"). Of the
    arm that the verdict is about, only what the verdict does not say."""
    rows, metric = [], summary["metric"]
    for arm, found in summary.get("differences", {}).items():
        if summary["arms"][arm].get("same_as"):
            continue
        mean, interval, p, better, _ = difference_texts(found[headline_epoch(summary)], metric)
        parts = [] if better == MISSING else [f"better in {better} of pairs"]
        if arm == against(summary):
            parts[:0] = ["as above"] if parts else []
        else:
            parts[:0] = [] if interval == MISSING else [f"95 % interval {interval}", f"p {p}"]
            parts.insert(0, f"{mean}{' points' if is_points(metric) else ''}")
        if parts:
            rows.append(("student minus", f"{summary['arms'][arm]['label']}: {', '.join(parts)}"))
    return rows


def times(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}x"
