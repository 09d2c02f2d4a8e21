"""kdrun energy RUN|SWEEP|TABLE: what it cost in energy, stage by stage, and when that pays back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdrun.accounting.formulas import Amount, total
from kdrun.accounting.stages import Library
from kdrun.accounting.text import energy_text, si
from kdrun.accounting.views import Arm, EnergyOptions, RunEnergy, as_json, chosen, of_run, of_runs
from kdrun.files import dump_json, number
from kdrun.hardware.card.cards import read_cards
from kdrun.measures import measure
from kdrun.plots.subject import find_subject, runs_of
from kdrun.present.results import percent
from kdrun.present.units import MISSING, duration, share
from kdrun.problems import UserError
from kdrun.tracking.registry import RunInfo, list_runs
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import one_word, outputs_folder
from kdrun.words import options_in

OPTIONS = ("pue", "grid", "serving")


def main(args: Arguments) -> int:
    """Print the page of one run, or that of the runs of a sweep or a table; with --json the same as one object."""
    word = one_word(args, "run, sweep or table")
    options, outputs = options_of(args), outputs_folder(args)
    runs, subject = list_runs(outputs), find_subject(outputs, [word], tables=True)
    library = Library(run.record for run in runs if run.record)
    if subject.kind != "run":
        records = {}
        for label, run in runs_of(subject, outputs, unfinished=True):
            if run.record.get("stages"):
                parts = getattr(run, "parts", ())
                name = label if subject.kind == "table" else run.id
                records[f"{label}, {len(parts)} runs" if parts else name] = run.record
        if not records:
            raise UserError(
                f"{subject.kind} {subject.name}: none of its runs has a finished stage in this outputs folder"
            )
        arms, beaten, metric = of_runs(records, library)
        # Stages of their runs, each once: what it took to be able to choose one.
        own = Library(records.values())
        everything = library.alone(own.items.values())
        content = {
            "kind": subject.kind,
            "name": subject.name,
            "metric": metric,
            "chosen": chosen(records),
            "all": everything,
        }
        if args.json:
            print(dump_json(_runs_json(content, arms, beaten, options)))
        else:
            _print_runs(content, arms, beaten, options)
        return 0
    ((_, run),), record = subject.runs, subject.record
    if not record.get("stages"):
        raise UserError(f"{run.id} has no finished stage yet: nothing is known of its energy")
    if run.id not in {other.id for other in runs}:
        library = Library([*(other.record for other in runs if other.record), record])
    view = of_run(record, library, options, _sweeps_of(run, outputs, runs), read_cards(run.dir))
    print(dump_json(_run_json(view, options))) if args.json else _print_run(view, options)
    return 0


def options_of(args: Arguments) -> EnergyOptions:
    """pue=, grid= and serving=REFERENCE,STUDENT. UserError for another key or a value that cannot be."""
    given: dict[str, Any] = {}
    for key, text in options_in(args.overrides, OPTIONS).items():
        values = [_positive(part) for part in text.strip("[]").split(",")]
        if None in values or len(values) != (2 if key == "serving" else 1) or (key == "pue" and values[0] < 1):
            meant = {
                "pue": "energy of the building over that of its machines, 1 or more: pue=1.2",
                "grid": "kg of CO2e per kWh, above 0: grid=0.4",
                "serving": "joules of one inference, of the reference and of the student: serving=0.9,0.1",
            }
            raise UserError(f"{key}={text}: {meant[key]}")
        given[key] = tuple(values) if key == "serving" else values[0]
    return EnergyOptions(**given)


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


# what is meant


def _sweeps_of(run: RunInfo, outputs: Path, runs: list[RunInfo]) -> dict[str, Library]:
    """Sweeps that this run is a point of, with the stages of all their points."""
    from kdrun.tracking.sweeps import list_sweeps

    records = {other.id: other.record for other in runs if other.record}
    found = {}
    for sweep in list_sweeps(outputs):
        ids = [point["run"] for point in sweep.record["points"]]
        if run.id in ids:
            found[sweep.id] = Library(records[name] for name in ids if name in records)
    return found


# text


def break_even_text(value: float | None, what: str) -> str:
    """`10.0 students`, `never`, `n/a`."""
    if value is None:
        return MISSING
    return "never" if math.isinf(value) else f"{value:.1f} {what}"


def _reuse_lines(view: RunEnergy) -> list[tuple[str, str]]:
    names = {
        "outputs": "cached outputs",
        "outputs and training": "cached outputs and the teacher's training",
        "training": "the teacher's training; its passes are part of every student",
    }
    texts = [f"{break_even_text(value, 'students')} ({names[key]})" for key, value in view.reuse.items()]
    return [("" if index else "break-even reuse", text) for index, text in enumerate(texts)]


def _serving_text(view: RunEnergy) -> str | None:
    found = view.serving
    if found is None:
        return None
    if found["source"] is None:
        return f"{MISSING}: joules of one inference are not known (a card of both, or serving=TEACHER,STUDENT)"
    inferences = found["inferences"]
    if inferences is None or math.isinf(inferences):
        count = break_even_text(inferences, "inferences")
    else:
        count = f"after {inferences:,.0f} inferences" if inferences >= 0.5 else "from the first inference on"
    pair = f"{si(found['reference'], 'J')} by the teacher, {si(found['student'], 'J')} by the student"
    return f"{count} ({pair}; {found['source']})" + (", estimate" if found["estimate"] else "")


def _lines(view: RunEnergy, options: EnergyOptions) -> list[tuple[str, str]]:
    """Label and text of the lines below the stage table."""
    over = f", shared by {view.students} students of the same teacher" if view.students > 1 else ""
    amounts = [
        ("with all it needs", view.alone, ""),
        ("trained in this run", view.here, ""),
        *([("wasted work", view.waste, "; not in the other lines")] if view.waste.joules else []),
        ("one student", view.single, ""),
        ("amortised", view.amortised, over),
        *(("with its sweep", value, f", all points of {name}") for name, value in view.sweeps.items()),
    ]
    lines = [(name, energy_text(value, options.pue, options.grid) + more) for name, value, more in amounts]
    lines += _reuse_lines(view)
    if serving := _serving_text(view):
        lines.append(("break-even serving", serving))
    lines.append(("method", "; ".join(view.how)))
    lines.append(("CO2e", f"kWh x PUE {options.pue:g} x {options.grid:g} kg/kWh"))
    return lines


def _print_run(view: RunEnergy, options: EnergyOptions) -> None:
    from kdrun.present.console import blank, columns, dim, facts

    units = {row.unit for row in view.rows if row.unit}
    mixed = len(units) > 1
    head = ("stage", "energy", "share", "time", f"per {' or '.join(sorted(units)) or 'sample'}", "stages")
    sums = total_of(view)
    rows = [
        (
            row.name,
            si(row.energy.joules, "J") + (" *" if row.energy.word else ""),
            share(row.energy.joules / sums.joules) if row.energy.joules is not None and sums.joules else MISSING,
            duration(row.seconds),
            si(view.per_unit.get(row.name), "J") + (f"/{row.unit}" if mixed else "")
            if row.name in view.per_unit
            else "",
            str(row.count),
        )
        for row in view.rows
    ]
    whole = ("all stages", si(sums.joules, "J") + (" *" if sums.word else ""), "", "", "", "")
    body = [columns(head, [*rows, whole])]
    if sums.word:
        body.append(dim(f"* {sums.word}"))
    if view.clients and any(client["energy"] for client in view.clients):
        body += [blank(), columns(("client", "training", "evaluation", "time"), _client_rows(view.clients))]
    body += [blank(), facts(_lines(view, options))]
    if len(view.arms) > 1:
        body += [blank(), _front(view.arms, view.beaten, view.metric, "arm")]
    _panel(body, view.run)


def total_of(view: RunEnergy) -> Amount:
    """The sum of the stage table."""
    return total(row.energy for row in view.rows)


def _client_rows(clients: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each client; of several seeds the sums."""
    found: dict[int, list[Any]] = {}
    for client in clients:
        found.setdefault(client["client"], []).append(client)
    rows = []
    for name, group in found.items():
        phases = [(one["energy"] or {}).get("phases") or {} for one in group]
        sums = []
        for phase in ("train", "evaluate"):
            values = [number((one.get(phase) or {}).get("joules")) for one in phases]
            sums.append(si(None if None in values else sum(values), "J"))
        rows.append((f"client {name}", *sums, duration(sum(one["seconds"] or 0.0 for one in group))))
    return rows


def _front(arms: list[Arm], beaten: dict[str, str], metric: str, name: str) -> Any:
    from kdrun.present.console import columns

    rows = []
    for arm in arms:
        known = None not in (arm.single.joules, arm.quality)
        place = f"dominated by {beaten[arm.name]}" if arm.name in beaten else "on the front" if known else MISSING
        energies = (si(value.joules, "J") + (" *" if value.word else "") for value in (arm.single, arm.shared))
        rows.append((arm.name, percent(arm.quality, metric), *energies, place))
    return columns((name, f"test {measure(metric).label}", "alone", "amortised", "energy and quality"), rows)


def _print_runs(content: dict[str, Any], arms: list[Arm], beaten: dict[str, str], options: EnergyOptions) -> None:
    from kdrun.present.console import blank, dim, facts

    body = [_front(arms, beaten, content["metric"], "run")]
    words = {arm.single.word for arm in arms if arm.single.word}
    if words:
        body.append(dim(f"* {' and '.join(sorted(words))}"))
    lines = [("all stages once", energy_text(content["all"], options.pue, options.grid))]
    if content["chosen"]:
        lines.append(("best on validation", f"{content['chosen']}; finding it took the energy of all of them"))
    lines.append(("CO2e", f"kWh x PUE {options.pue:g} x {options.grid:g} kg/kWh"))
    _panel([*body, blank(), facts(lines)], f"{content['kind']} {content['name']}")


def _panel(body: list[Any], title: str) -> None:
    from kdrun.present.console import Console, show_page

    show_page(Console(), title, body)


# JSON


def _run_json(view: RunEnergy, options: EnergyOptions) -> dict[str, Any]:
    serving = view.serving and {**view.serving, "extra": as_json(view.serving["extra"], options)}
    return {
        **{"run": view.run, "pue": options.pue, "grid": options.grid},
        "method": view.how,
        "stages": [
            {
                "name": row.name,
                **as_json(row.energy, options),
                "seconds": row.seconds,
                "stages": row.count,
                "per_unit": view.per_unit.get(row.name),
                "unit": row.unit or None,
            }
            for row in view.rows
        ],
        "sum": as_json(total_of(view), options),
        "views": {
            "alone": as_json(view.alone, options),
            "here": as_json(view.here, options),
            "waste": as_json(view.waste, options),
            "one_seed": as_json(view.single, options),
            "amortised": {**as_json(view.amortised, options), "students": view.students},
            "sweeps": {name: as_json(value, options) for name, value in view.sweeps.items()},
        },
        "break_even_reuse": view.reuse,
        "break_even_serving": serving,
        "clients": view.clients,
        "arms": [_arm_json(arm, view.beaten, options) for arm in view.arms],
    }


def _runs_json(
    content: dict[str, Any], arms: list[Arm], beaten: dict[str, str], options: EnergyOptions
) -> dict[str, Any]:
    everything = as_json(content["all"], options)
    return {**content, "all": everything, "runs": [_arm_json(arm, beaten, options) for arm in arms]}


def _arm_json(arm: Arm, beaten: dict[str, str], options: EnergyOptions) -> dict[str, Any]:
    return {
        "name": arm.name,
        "quality": arm.quality,
        "alone": as_json(arm.single, options),
        "amortised": as_json(arm.shared, options),
        "dominated_by": beaten.get(arm.name),
        "seeds": arm.n,
    }
