"""What a sweep will run: its jobs, each with folder, hash and status, known and written down before the first starts.

OUTPUTS/sweeps/<name>-<hash8>/sweep.json    the points and their runs; how far they are is in the records of the runs
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdrun import kinds
from kdrun.files import read_json, write_json
from kdrun.problems import ConfigProblems, UserError, each
from kdrun.tracking.record import FAILURES, PLANNED, PRUNED, now
from kdrun.tracking.registry import HASH_LENGTH, plan_run, read_run, run_of_job, slugify
from kdrun.tracking.sweeps import SCHEMA, SWEEP, SWEEPS

NEW, DONE, RUNNING, INTERRUPTED = "new", "done", "running", "interrupted"
STORED, TO_FIT, NO_TEACHER, UNKNOWN = "stored", "to fit", "-", "unknown"


@dataclass
class Point:
    """One job of a sweep.

    status   new, or that of its run (see tracking.record.STATUSES; planned counts as new)
    teacher  where its teacher and the outputs of it come from: "stored", "to fit", "as N" (with job N), "-" (none), "unknown"
    """

    number: int
    overrides: list[str]
    job: Any
    status: str = NEW
    run_id: str | None = None
    folder: Path | None = None
    teacher: str = UNKNOWN
    error: dict[str, Any] | None = None

    def look(self) -> None:
        """Read run and status from the disk."""
        info = run_of_job(self.job.config["paths"]["outputs"], self.job.hash)
        if info is not None:
            self.run_id, self.folder = info.id, info.dir
            self.status = NEW if info.status == PLANNED else info.status
            self.error = (info.record or {}).get("error")

    @property
    def record(self) -> dict[str, Any]:
        return (read_run(self.folder).record if self.folder else None) or {}


@dataclass
class SweepPlan:
    """The points of a sweep and where they are written down; `add` lets a search grow it."""

    id: str
    folder: Path
    kind: str
    overrides: list[str]
    provenance: Any
    points: list[Point] = field(default_factory=list)
    conf_dirs: Sequence[str] = ()
    search: dict[str, Any] | None = None

    @property
    def outputs(self) -> Path:
        return self.folder.parent.parent

    @property
    def command(self) -> str:
        return self.provenance.command

    def shared(self) -> list[str]:
        """The words that all points have."""
        common = set.intersection(*(set(point.overrides) for point in self.points)) if self.points else set()
        return [word for word in self.points[0].overrides if word in common] if len(self.points) > 1 else []

    def label(self, point: Point) -> str:
        """What tells this point from the others, keys without their beginning: `temperature=4`."""
        shared = set(self.shared())
        words = [word.partition("=") for word in point.overrides if word not in shared and word[:5] != "name="]
        short = [key.rpartition(".")[2] for key, _, _ in words]
        named = [s if short.count(s) == 1 else key for s, (key, _, _) in zip(short, words, strict=True)]
        return " ".join(f"{name}={value}" for name, (_, _, value) in zip(named, words, strict=True)) or "as it is"

    def add(self, overrides: list[str]) -> Point:
        """Compose one more point."""
        from kdrun.job.compose import compose

        point = Point(len(self.points), list(overrides), compose(overrides, self.conf_dirs))
        point.look()
        self.points.append(point)
        return point


def make_plan(
    points: Sequence[Sequence[str]],
    conf_dirs: Sequence[str] = (),
    *,
    kind: str = "grid",
    name: str | None = None,
    identity: str | None = None,
    arguments: Sequence[str] = (),
    deep: bool = True,
    unjudged: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    elsewhere: bool = False,
) -> SweepPlan:
    """Compose all points and find out how far each is. Writes nothing.

    name       of the sweep's folder (default: the names of what is swept)
    identity   text that the sweep's hash is made from (default: the hashes of its jobs)
    arguments  what was typed after `kdrun`
    deep       also look which teachers are in the store (imports torch)
    unjudged   words that are not refused where no job uses them (see strategies.unused)
    progress   called with (points looked at, all points)
    elsewhere  the jobs will run on other machines: sensors and programs that they ask for need not be here

    Raises one UserError that names everything that is wrong in any point.
    """
    from kdrun.job.compose import compose
    from kdrun.ledger.reader import check_reader
    from kdrun.strategies.unused import refuse_unused
    from kdrun.tracking.credentials import resolve_mode
    from kdrun.tracking.provenance import Provenance

    found: list[Point] = []
    problems: dict[tuple[str, ...], list[str]] = {}
    for number, overrides in enumerate(points):
        try:
            found.append(Point(number, list(overrides), compose(overrides, conf_dirs)))
            resolve_mode(found[-1].job.config["tracker"])
            if not elsewhere:
                check_reader(found[-1].job.config["energy"], found[-1].job.config["hardware"])
                with found[-1].job.allowing():
                    kinds.find(found[-1].job.config["data"]["task"]).check_here(found[-1].job.config["data"])
        except UserError as error:
            for first, *rest in each(error):
                typed, _, fault = first.partition(": ")  # `key=1: fault` and `key=2: fault` are one fault
                problems.setdefault((typed.partition("=")[0], fault, *rest), [first, *rest])
        if progress:
            progress(number + 1, 2 * len(points))
    if problems:
        raise ConfigProblems(problems.values())
    refuse_unused([point.job for point in found], unjudged)
    outputs = {point.job.config["paths"]["outputs"] for point in found}
    if len(outputs) > 1:
        raise UserError("paths.outputs cannot be swept: a sweep has one folder")
    text = identity or " ".join(sorted(point.job.hash for point in found))
    digest = hashlib.sha256(f"{kind} {text}".encode()).hexdigest()[:HASH_LENGTH]
    sweep = f"{slugify(name or _swept(points) or found[0].job.config['name'])}-{digest}"
    folder = Path(outputs.pop() if outputs else "outputs") / SWEEPS / sweep
    plan = SweepPlan(sweep, folder, kind, list(arguments), Provenance.collect(arguments), found, conf_dirs)
    for point in found:
        point.look()
    if deep:
        look_for_teachers(found, lambda done: progress(len(points) + done, 2 * len(points)) if progress else None)
    return plan


def look_for_teachers(points: Sequence[Point], progress: Callable[[int], None] = lambda done: None) -> None:
    """Set `teacher` of every point. Points with the same data are looked at together: one view is in memory at a time."""
    from kdrun.job.cells import fit_cells, make_lab
    from kdrun.learning.device import foreseen
    from kdrun.learning.report import Report

    labs: dict[str, Any] = {}
    needs: dict[int, list[str]] = {}
    order = sorted(points, key=lambda point: (json.dumps(point.job.config["data"], sort_keys=True), point.number))
    for count, point in enumerate(order):
        progress(count + 1)
        if point.status == DONE:
            point.teacher = STORED
            continue
        config = point.job.config
        hardware = foreseen(config["hardware"])
        key = json.dumps([config["paths"], hardware], sort_keys=True)
        if key not in labs:
            labs[key] = make_lab(config["paths"], hardware, Report(), lambda item: None, dry=True)
        lab = labs[key]
        lab.forget()
        with point.job.allowing():
            fit_cells([{**cell, "hardware": hardware} for cell in point.job.cells], lab)
        stages = [planned for planned in lab.planned if planned.result.stage.teacher is not None]
        taught_by = [planned.result.stage.teacher for planned in stages if planned.status != DONE]
        needs[point.number] = list(dict.fromkeys(one.fingerprint for one in taught_by if not one.record))
        point.teacher = (TO_FIT if needs[point.number] else STORED) if stages else NO_TEACHER
    first: dict[str, int] = {}
    for point in points:
        missing = needs.get(point.number, [])
        if missing and all(fingerprint in first for fingerprint in missing):
            point.teacher = f"as {max(first[fingerprint] for fingerprint in missing)}"
        for fingerprint in missing:
            first.setdefault(fingerprint, point.number)


def to_run(point: Point, retry: bool = False, force: bool = False) -> bool:
    """Whether a sweep runs this point: all that is not done, but what failed only with `retry`.

    One that another process works on is waited for: it may end undone.
    """
    return force or point.status in (NEW, INTERRUPTED, RUNNING) or (retry and point.status in (*FAILURES, PRUNED))


def freeze(plan: SweepPlan, *, retry: bool = False, force: bool = False) -> list[Point]:
    """Write the config of every point that shall run, and the sweep itself; returns those points.

    From here on nothing that is edited changes what the sweep runs.
    """
    chosen = [point for point in plan.points if to_run(point, retry, force)]
    for point in chosen:
        if point.status != RUNNING:
            freeze_point(plan, point)
    save(plan)
    return sorted(chosen, key=lambda point: point.status == RUNNING)


def freeze_point(plan: SweepPlan, point: Point) -> Path:
    """The run folder of a point with its config, commit and versions in it, to be run by `sweep.worker.run_frozen`."""
    from kdrun.tracking.provenance import write_start

    run = plan_run(plan.outputs, point.job.config["name"], point.job.hash)
    try:
        write_start(run, point.job, plan.provenance)
        point.run_id, point.folder = run.id, run.dir.resolve()
    finally:
        run.close()
    return point.folder


def save(plan: SweepPlan) -> None:
    """Write sweep.json."""
    path = plan.folder / SWEEP
    created = read_json(path)["created"] if path.is_file() else now()
    record = {
        "schema": SCHEMA,
        "id": plan.id,
        "kind": plan.kind,
        "created": created,
        "updated": now(),
        "command": plan.command,
        "overrides": plan.overrides,
        "hash": plan.id.rpartition("-")[2],
        "points": [
            {"number": point.number, "overrides": point.overrides, "run": point.run_id, "job_hash": point.job.hash}
            for point in plan.points
        ],
        "search": plan.search,
        "git": plan.provenance.git,
        "versions": plan.provenance.versions,
    }
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _swept(points: Sequence[Sequence[str]]) -> str:
    """`temperature-weight`: last names of the keys whose words differ between points."""
    values: dict[str, set[str]] = {}
    for words in points:
        for word in words:
            values.setdefault(word.partition("=")[0].lstrip("+~"), set()).add(word)
    return "-".join(key.rpartition(".")[2].rpartition("/")[2] for key, words in values.items() if len(words) > 1)
