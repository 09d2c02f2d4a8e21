"""The cells of a job, one for each seed, and the lab that fits their stages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kdrun.problems import UserError


def expected(cell: dict[str, Any], workshop: Any = None) -> list[Any]:
    """The stages that a cell asks for as far as that is known before any has run; all code that they name is imported, and module
    paths are looked up. workshop: what says how data are divided among stages; None: classes are made up.

    Raises UserError with file and line where an import fails, with the nearest paths for one that a network lacks."""
    from dataclasses import fields

    from kdrun.learning.beforehand import check_names, check_paths
    from kdrun.strategies.unused import stages_of

    check_names([cell["strategy"], cell["data"]])
    stages = stages_of(cell, None if workshop is None else workshop.known_of)
    check_names([getattr(stage, item.name) for stage in stages for item in fields(stage)])
    check_paths(stages)
    return stages


def planned_on(stages: list[Any], data: dict[str, Any], workshop: Any) -> tuple[list[Any], Any]:
    """(stages, their data): those that learn from the job's data, or other samples of them; where none does, from those of the
    first stage."""
    from kdrun.lab.teachers import evaluated

    wanted = data if any(stage.data == data for stage in stages) or not stages else stages[0].data
    return [stage for stage in stages if evaluated(stage.data) == evaluated(wanted)], workshop.data(wanted)


def make_lab(
    paths: dict[str, str],
    hardware: dict[str, Any],
    report,
    fitted,
    *,
    force: bool = False,
    dry: bool = False,
    energy: dict[str, Any] | None = None,
    **options: Any,
):
    """A lab on the store of this config. energy: its `energy`; None: nothing is measured. options: of its class, `kind` (Lab).

    Raises UserError for a sensor that is asked for by name and cannot be read."""
    from kdrun.domains.load import content_hash, load_data
    from kdrun.lab.dry import DryLab
    from kdrun.lab.fingerprint import FingerprintContext
    from kdrun.lab.lab import Lab
    from kdrun.lab.store import Store
    from kdrun.learning.teaching import Workshop

    def stop_while_waiting() -> None:
        if report.stop_requested():
            raise Interrupted

    from kdrun.learning.report import Interrupted

    store = Store(paths["store"], stop_while_waiting)
    context = FingerprintContext(lambda data: content_hash(data, paths), hardware["device"])
    workshop = Workshop(
        lambda data: load_data(data, paths), store.root / "outputs", store.lock, waiting=store.waiting_text
    )
    if dry:
        return DryLab(store, context, workshop, paths, report, fitted)
    workshop.meter(energy, hardware)
    kind = options.pop("kind", Lab)
    return kind(store, context, workshop, paths, report, fitted, force=force, energy=energy, **options)


def fit_cells(cells: list[dict[str, Any]], lab, failed: Callable[[int, BaseException], None] | None = None):
    """Run the strategy and its control arms for every cell.

    Returns arms {arm: {seed: record, its "folder" and the parts of the result as "results"}}, labels {arm: text}, teachers
    {seed: record} and the arm that the result is held against. With `failed`, a cell that raises is reported to it and the next
    one follows; a mistake of the user and an interruption concern all of them.
    """
    from kdrun.learning.report import Interrupted
    from kdrun.strategies.cast import Cast
    from kdrun.targets import build

    arms: dict[str, dict[int, Any]] = {}
    teachers: dict[int, Any] = {}
    strategy = build(cells[0]["strategy"], "strategy")
    Cast(cells[0]).check(strategy.arms)
    strategy.check(Cast(cells[0]))
    labels = {name: strategy.arms[name] for name in strategy.controls}

    def kept(trained) -> dict[str, Any]:
        task = cells[0]["data"]["task"]
        return {**trained.record, "folder": trained.path, "results": trained.parts, "task": task}

    lab.expect({cell["seed"]: _asks(strategy, Cast(cell)) for cell in cells})
    for cell in cells:
        cast, seed = Cast(cell), cell["seed"]
        try:
            student = strategy.run(lab, cast)
            own = "student" if student.stage.taught else "alone"
            labels[own] = strategy.label(cast) if own == "student" else strategy.arms["alone"]
            arms.setdefault(own, {})[seed] = kept(student)
            if (teacher := student.stage.behind) is not None:
                teachers[seed] = {**teacher.record, "folder": teacher.path}
            for name in strategy.controls:
                if name != own:
                    arms.setdefault(name, {})[seed] = kept(strategy.control(name, lab, cast))
        except (UserError, Interrupted):
            raise
        except Exception as error:
            if failed is None:
                raise
            failed(seed, error)
    return arms, labels, teachers, strategy.against


def _asks(strategy, cast) -> list[Callable[[Any], Any]]:
    """What `fit_cells` will ask a lab for, for one cell."""

    def control(name: str) -> Callable[[Any], Any]:
        return lambda lab: strategy.control(name, lab, cast)

    return [lambda lab: strategy.run(lab, cast), *map(control, strategy.controls)]


def stage_entry(item) -> dict[str, Any]:
    """A stage as the run record lists it."""
    record = item.result.record
    start, behind = getattr(item.result.stage, "start", None), item.result.stage.behind
    return {
        "label": item.result.stage.label,
        "role": item.result.stage.role,
        "learner": record["learner"],
        "fingerprint": item.result.fingerprint,
        "seed": item.result.stage.seed,
        "source": item.source,
        "path": str(item.result.path),
        "further": record.get("further") or {},
        **({} if start is None else {"start": start.fingerprint}),
        **({} if behind in (None, item.result.stage.teacher) else {"behind": behind.fingerprint}),
        **({"seen": {"by": item.result.stage.stated.get("key"), **record["seen"]}} if record.get("seen") else {}),
        **{key: record[key] for key in item.result.stage.told if record.get(key)},
        "monitor": record.get("monitor"),
        **{key: record[key] for key in ("val", "test", "cost", "parameters", "flops", "teacher", "first_step")},
    }


def name_results(stages: list[dict[str, Any]], arms: dict[str, dict[int, Any]]) -> None:
    """The result of an arm has the arm's name as its role: where a strategy asks for several stages of this role, the lab has
    numbered them, and those on the way to the result get the numbers."""
    for arm, records in arms.items():
        results = {record["fingerprint"] for record in records.values()}
        numbered = [s for s in stages if s["fingerprint"] in results and re.fullmatch(rf"{arm}_\d+", s["role"])]
        if not numbered:
            continue
        for stage in stages:
            if stage["role"] == arm and stage["fingerprint"] not in results:
                stage["role"] = f"{arm}_1"
        for stage in numbered:
            stage["role"] = arm
