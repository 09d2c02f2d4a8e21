"""Views of the energy of a run, of the runs of a table, and of those of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrun.accounting import formulas
from kdrun.accounting.formulas import GRID, NOTHING, PUE, UNKNOWN, Amount, break_even, co2e, kwh, mean, total
from kdrun.accounting.stages import ALONE, STUDENT, Library, StageCost
from kdrun.files import number
from kdrun.measures import measure
from kdrun.parts import headline_epoch, parts_of
from kdrun.records import arms_of, figure_of, metric_of, own_arm, spread, validation_of

Record = Mapping[str, Any]


@dataclass(frozen=True)
class EnergyOptions:
    """pue: building over machines; grid: kg CO2e per kWh; serving: joules of one inference (reference, student)."""

    pue: float = PUE
    grid: float = GRID
    serving: tuple[float, float] | None = None


@dataclass(frozen=True)
class StageRow:
    """One line of the stage table. units: samples or tokens that training went through; count: stages in it."""

    name: str
    energy: Amount
    seconds: float | None
    units: float | None = None
    unit: str = ""
    count: int = 0


@dataclass(frozen=True)
class Arm:
    """An arm of a run: a mean over seeds.

    single     from nothing, all that it needs charged to one network
    shared     what is used by others too divided by their number
    quality    test metric at the epoch that the run is judged by
    """

    name: str
    single: Amount
    shared: Amount
    quality: float | None
    n: int


@dataclass
class RunEnergy:
    """See `of_run`."""

    run: str
    metric: str
    rows: list[StageRow]
    alone: Amount
    here: Amount
    waste: Amount
    students: int
    amortised: Amount
    single: Amount
    sweeps: dict[str, Amount]
    arms: list[Arm]
    reuse: dict[str, float | None]
    serving: dict[str, Any] | None
    how: list[str]
    clients: list[dict[str, Any]] = field(default_factory=list)
    per_unit: dict[str, float | None] = field(default_factory=dict)
    beaten: dict[str, str] = field(default_factory=dict)


def of_run(
    record: Record,
    library: Library,
    options: EnergyOptions,
    sweeps: Mapping[str, Library],
    cards: Sequence[Record] = (),
) -> RunEnergy:
    """Everything that one run's record says of energy. library: of all runs of the outputs folder; sweeps: of those it is in."""
    items = library.of(record)
    own = own_arm(record)
    students = [item for item in items if item.role == own]
    metric = metric_of(record)
    rows = _rows(items, own, record)
    view = RunEnergy(
        run=str(record.get("id")),
        metric=metric,
        rows=rows,
        alone=library.alone(items),
        here=total(item.total for item in items if item.source != "store"),
        waste=total(item.waste if item.energy else NOTHING for item in items if item.source != "store"),
        students=max((_users(library, item) for item in students), default=0),
        amortised=mean(library.shared(item) for item in students),
        single=mean(library.alone([item]) for item in students),
        sweeps={name: other.alone(other.items.values()) for name, other in sweeps.items()},
        arms=_arms(items, library, record, metric),
        reuse=_reuse(items, students, library),
        serving=_serving(students, library, options, cards),
        how=_how(items),
        clients=[
            {"seed": item.seed, "role": item.role, **{k: part.facts.get(k) for k in ("client", "energy", "seconds")}}
            for item in students
            for part in parts_of(item.entry).values()
            if part.stage is item.entry and "client" in part.facts
        ],
    )
    view.per_unit = {
        row.name: row.energy.joules / row.units for row in rows if row.units and row.energy.joules is not None
    }
    view.beaten = _beaten(view.arms, metric)
    return view


def _users(library: Library, item: StageCost) -> int:
    """Stages that used the same outputs, else the same teacher."""
    shared = [len(library.readers[cache.key]) for cache in item.caches] or [
        len(library.users[t]) for t in item.teachers
    ]
    return max(shared, default=1)


def _rows(items: Sequence[StageCost], own: str, record: Record) -> list[StageRow]:
    """Disjoint parts whose sum is that of all stages of this run."""
    teaching = {name for item in items for name in item.teachers} | {
        i.fingerprint for i in items if i.role == "teacher"
    }
    arms = arms_of(record)
    teachers = [item for item in items if item.fingerprint in teaching]
    others = [item for item in items if item.fingerprint not in teaching]
    rows = [_row("data and features", items, "prepare")]
    if teachers:
        rows.append(_trained("teacher training", teachers))
    asked = [item for item in items if item.teachers]
    if asked:
        parts = [item.phases.get("teacher", NOTHING) + item.online for item in asked]
        rows.append(StageRow("teacher inference", total(parts), _seconds(asked, "teacher"), count=len(asked)))
    for role in sorted({item.role for item in others}, key=lambda role: (role != own, role)):
        group = [item for item in others if item.role == role and not item.together]
        label = (arms.get(role) or {}).get("label") or role.replace("_", " ")
        if group:
            rows.append(_trained(label, group))
    rows.append(_row("evaluation", items, "evaluate"))
    lost = [item for item in items if item.energy is None and not item.together]
    if lost:
        rows.append(
            StageRow("not known", UNKNOWN, sum(i.entry["cost"].get("seconds") or 0.0 for i in lost), count=len(lost))
        )
    return [row for row in rows if row.count]


def _row(name: str, items: Sequence[StageCost], phase: str) -> StageRow:
    found = [item for item in items if phase in item.phases]
    return StageRow(name, total(item.phases[phase] for item in found), _seconds(found, phase), count=len(found))


def _trained(name: str, items: Sequence[StageCost]) -> StageRow:
    found = [item for item in items if "train" in item.phases]
    units = [item.units[0] for item in found]
    energy = total(_train(item) for item in found)
    count = sum(units) if units and None not in units else None
    unit = found[0].units[1] if found else ""
    return StageRow(name, energy, _seconds(found, "train"), count or None, unit, len(found))


def _train(item: StageCost) -> Amount:
    """Training without the forward passes of an online teacher."""
    if not item.online.joules:
        return item.phases["train"]
    return item.phases["train"] - item.online


def _seconds(items: Sequence[StageCost], phase: str) -> float | None:
    return sum(item.seconds.get(phase, 0.0) for item in items)


def _arms(items: Sequence[StageCost], library: Library, record: Record, metric: str) -> list[Arm]:
    arms, found = arms_of(record), []
    for role in dict.fromkeys(item.role for item in items):
        group = [item for item in items if item.role == role]
        if role in arms or role == "teacher":
            name = f"teacher {group[0].learner}" if role == "teacher" else arms[role].get("label") or role
            found.append(_arm(name, group, library, metric, headline_epoch(record.get("summary") or {})))
    return found


def _arm(name: str, items: Sequence[StageCost], library: Library, metric: str, which: str) -> Arm:
    quality = spread([figure_of(item.entry, metric, which=which) for item in items])["mean"]
    single, shared = mean(library.alone([item]) for item in items), mean(library.shared(item) for item in items)
    return Arm(name, single, shared, quality, len(items))


def _reuse(items: Sequence[StageCost], students: Sequence[StageCost], library: Library) -> dict[str, float | None]:
    """N* for the cached outputs, and for them and the teacher's training; {} where there is nothing to compare."""
    alone = [item for item in items if item.role == ALONE]
    taught = [item for item in students if item.teachers]
    if not alone or not taught:
        return {}
    outputs = mean(total(cache.energy for cache in item.caches) for item in taught)
    own = mean(item.total - total(cache.energy for cache in item.caches if cache.built) for item in taught)
    trained = mean(
        library.alone([library.items[name] for name in item.teachers if name in library.items]) for item in taught
    )
    reference = mean(item.total for item in alone)
    found: dict[str, float | None] = {}
    if any(item.caches for item in taught):
        found["outputs"] = break_even(outputs.joules, reference.joules, own.joules)
    found["outputs and training" if found else "training"] = break_even(
        (outputs + trained).joules, reference.joules, own.joules
    )
    return found


def _serving(
    students: Sequence[StageCost], library: Library, options: EnergyOptions, cards: Sequence[Record]
) -> dict[str, Any] | None:
    """T*: inferences after which the student has saved what it cost, where else the teacher would be served.

    What it cost: all that the student needed but the training of its teachers, which serving the teacher needs as well.
    """
    taught = [item for item in students if item.teachers]
    if not taught:
        return None
    trained = mean(
        library.alone([library.items[name] for name in item.teachers if name in library.items]) for item in taught
    )
    extra = mean(library.alone([item]) for item in taught) - trained
    if options.serving is not None:
        (reference, student), source, estimate = options.serving, "given", False
    else:
        pair = _served(cards)
        if pair is None:
            return {"extra": extra, "inferences": None, "source": None}
        reference, student, source, estimate = pair
    return {
        "extra": extra,
        "reference": reference,
        "student": student,
        "source": source,
        "estimate": estimate or bool(extra.word),
        "inferences": formulas.break_even(extra.joules, reference, student),
    }


def _served(cards: Sequence[Record]) -> tuple[float, float, str, bool] | None:
    """(joules of the teacher, of the student, from which card, an estimate) from the first setting that has both."""
    found: dict[tuple, dict[str, Any]] = {}
    for card in cards:
        joules = number((card.get("energy") or {}).get("joules"))
        if joules is not None and card.get("arm") in ("teacher", STUDENT):
            key = tuple(card.get(name) for name in ("target", "precision", "batch"))
            found.setdefault(key, {}).setdefault(card["arm"], (joules, bool(card["energy"].get("estimate"))))
    for (target, precision, batch), pair in found.items():
        if len(pair) == 2:
            (one, first), (other, second) = pair["teacher"], pair[STUDENT]
            return one, other, f"card: {target}, {precision}, batch {batch}", first or second
    return None


def _how(items: Sequence[StageCost]) -> list[str]:
    """`flops (model), estimate`: each way in which energy of these stages is known."""
    found: dict[str, None] = {}
    for item in items:
        if energy := item.energy:
            shared = ", shared by processor time" if energy.get("shared") else ""
            text = f"{energy['method']} ({energy['coverage']}){shared}"
            found[text + (", estimate" if energy["estimate"] else "")] = None
        elif not item.together:
            found["not measured"] = None
    return list(found)


def of_runs(named: Mapping[str, Record], library: Library) -> tuple[list[Arm], dict[str, str], str]:
    """The own arm of each of several runs, which of them is beaten by which, and the metric."""
    arms, metric = [], "accuracy"
    for name, record in named.items():
        metric = (record.get("summary") or {}).get("metric") or metric
        group = [item for item in library.of(record) if item.role == own_arm(record)]
        arms.append(_arm(name, group, library, metric, headline_epoch(record.get("summary") or {})))
    return arms, _beaten(arms, metric), metric


def _beaten(arms: Sequence[Arm], metric: str) -> dict[str, str]:
    return formulas.dominated({arm.name: (arm.single.joules, arm.quality) for arm in arms}, measure(metric).better)


def chosen(named: Mapping[str, Record]) -> str | None:
    """The run that is best on validation (mean over seeds of its own arm); None where that is not known."""
    known = {name: value["mean"] for name, record in named.items() if (value := validation_of(record))}
    better = measure(metric_of(next(iter(named.values()), {}))).better
    return (max if better == "max" else min)(known, key=known.__getitem__, default=None)


def as_json(value: Amount | None, options: EnergyOptions) -> dict[str, Any]:
    """An amount in JSON types, with kWh and kg of CO2e. kind: measured, estimate, partly estimate, or None: not known."""
    value = value or UNKNOWN
    return {
        "joules": value.joules,
        "kind": None if value.joules is None else value.word or "measured",
        "kwh": kwh(value.joules),
        "co2e_kg": co2e(value.joules, options.pue, options.grid),
    }
