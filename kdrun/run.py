"""Run one job: its record from the first moment, its stages through the lab, its summary, its exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from kdrun.problems import UserError

DONE, FAILED, MISTAKE = 0, 1, 2


def run_job(
    job: Any,
    *,
    quiet: bool = False,
    force: bool = False,
    json: bool = False,
    arguments: list[str] | None = None,
    provenance: Any = None,
) -> int:
    """Run all cells of a job (see config.compose.Job) and return the exit code.

    0 done; 1 failed, the traceback at the end of the run's log; 2 a mistake in the config that only showed now;
    130 or 143 stopped by SIGINT or SIGTERM after the state was saved: the same command goes on.
    force: fit every stage anew even if the store has it. json: print id, folder and summary as JSON, nothing else.
    """
    from kdrun.progress import Signals
    from kdrun.tracking.credentials import resolve_mode
    from kdrun.tracking.provenance import Provenance

    provenance = provenance or Provenance.collect(sys.argv[1:] if arguments is None else arguments)
    quiet = quiet or json
    resolve_mode(job.config["tracker"])  # a tracker that cannot work is told before a folder is made
    with Signals() as signals:
        return _run(job, Console(quiet=quiet), signals, quiet=quiet, force=force, json=json, provenance=provenance)


def _run(job, console: Console, signals, *, quiet: bool, force: bool, json: bool, provenance) -> int:
    from kdrun.tracking.mirror import start_mirror
    from kdrun.tracking.provenance import write_start
    from kdrun.tracking.registry import open_run

    config = job.config
    run = open_run(config["paths"]["outputs"], job.config["name"], job.hash)
    mirror = None
    try:
        with _log(run.log_path):
            try:
                write_start(run, job, provenance)
                mirror = start_mirror(run, config["tracker"])
                result = execute(job, run, console, signals, quiet=quiet, force=force)
                run.finish(summary=result["summary"], stages=result["stages"], audit=result["audit"])
                code = DONE
            except BaseException as error:
                code = _failed(run, error, signals, provenance.command)
    finally:
        run.close()
    if mirror is not None:
        notice = mirror.finish(config["tracker"]["timeout"])
        if notice:
            console.print(notice, style="yellow", soft_wrap=True)
    if code == DONE and not quiet:
        from kdrun.panel import show

        show(console, result["summary"], facts(run, result, mirror))
    if code == DONE and json:
        from kdrun.files import dump_json

        print(dump_json({"id": run.id, "path": str(run.dir), "summary": result["summary"]}))
    return code


def execute(job, run, console: Console, signals, *, quiet: bool, force: bool) -> dict[str, Any]:
    """Fit all stages of all cells. Returns summary, stages, audit and seconds for the record and the panel."""
    from kdrun.hardware.target import apply_threads, resolve
    from kdrun.lab.lab import Fitted
    from kdrun.progress import RunReport
    from kdrun.summary import summarise

    started = time.monotonic()
    hardware = resolve(job.config["hardware"])
    apply_threads(hardware)
    cells = [{**cell, "hardware": hardware} for cell in job.cells]
    stages: list[dict[str, Any]] = []
    with RunReport(console, run.metrics.write_rows, signals, quiet) as report:

        def fitted(item: Fitted) -> None:
            report.finished(item.trained.stage.label, item.source, item.trained.record)
            stages.append(stage_entry(item))
            run.update(stages=stages)

        lab = make_lab(job.config["paths"], hardware, report, fitted, force=force)
        audit = lab.shop.data(job.config["data"]).audit()
        run.update(audit=audit)
        if audit.get("summary"):
            report.note(audit["summary"])
        arms, labels, teachers = fit_cells(cells, lab)
    summary = summarise("accuracy", arms, labels, teachers)
    summary["seconds"] = round(time.monotonic() - started, 3)
    return {"summary": summary, "stages": stages, "audit": audit, "seconds": summary["seconds"]}


def make_lab(
    paths: dict[str, str], hardware: dict[str, Any], report, fitted, *, force: bool = False, dry: bool = False
):
    """A lab on the store of this config."""
    from kdrun.data.build import content_hash, load_data
    from kdrun.lab.dry import DryLab
    from kdrun.lab.fingerprint import FingerprintContext
    from kdrun.lab.lab import Lab
    from kdrun.lab.store import Store
    from kdrun.learning.teaching import Workshop

    store = Store(paths["store"])
    context = FingerprintContext(lambda data: content_hash(data, paths), hardware["device"])
    shop = Workshop(lambda data: load_data(data, paths), store.root / "outputs", store.lock)
    if dry:
        return DryLab(store, context, shop, paths, report, fitted)
    return Lab(store, context, shop, paths, report, fitted, force=force)


def fit_cells(cells: list[dict[str, Any]], lab):
    """Run the strategy and its control arms for every cell.

    Returns arms {arm: {seed: record}}, labels {arm: text} and teachers {seed: record}.
    """
    from kdrun.strategies.cast import Cast
    from kdrun.targets import build

    arms: dict[str, dict[int, Any]] = {}
    teachers: dict[int, Any] = {}
    strategy = build(cells[0]["strategy"])
    labels = {name: strategy.arms[name] for name in strategy.controls}
    for cell in cells:
        cast, seed = Cast(cell), cell["seed"]
        student = strategy.run(lab, cast)
        own = "student" if student.stage.teacher is not None else "alone"
        labels[own] = f"student {cell['student']['name']}, distilled" if own == "student" else strategy.arms["alone"]
        arms.setdefault(own, {})[seed] = student.record
        if student.stage.teacher is not None:
            teachers[seed] = student.stage.teacher.record
        for name in strategy.controls:
            if name != own:
                arms.setdefault(name, {})[seed] = strategy.control(name, lab, cast).record
    return arms, labels, teachers


def stage_entry(item) -> dict[str, Any]:
    """A stage as the run record lists it."""
    record = item.trained.record
    return {
        "label": item.trained.stage.label,
        "role": item.trained.stage.role,
        "learner": record["learner"],
        "fingerprint": item.trained.fingerprint,
        "seed": item.trained.stage.seed,
        "source": item.source,
        "path": str(item.trained.path),
        **{key: record[key] for key in ("val", "test", "cost", "parameters", "flops", "teacher", "first_step")},
    }


def facts(run, result: dict[str, Any], mirror) -> dict[str, str]:
    """The lines below the table of the panel."""
    from kdrun.panel import duration

    stages, audit = result["stages"], result["audit"]
    found = sum(stage["source"] == "store" for stage in stages)
    trained = sum(stage["cost"]["seconds"] for stage in stages if stage["source"] != "store")
    lines = {
        "time": f"{duration(result['seconds'])}; {len(stages) - found} stages fitted ({duration(trained)}), {found} from the store"
    }
    if audit.get("summary"):
        lines["data"] = audit["summary"]
    lines["record"] = _short(run.dir)
    if mirror is not None:
        lines["W&B"] = mirror.describe()
    lines["look further"] = f"kdrun show {run.id}"
    return lines


def _failed(run, error: BaseException, signals, command: str) -> int:
    """Record how the run ended, tell it in a few lines, and choose the exit code."""
    from kdrun.learning.callbacks import Interrupted

    # A signal that cut something short (a process, a wait) shows as whatever broke: it was still the signal.
    stopped = isinstance(error, (Interrupted, KeyboardInterrupt)) or signals.received is not None
    run.fail(KeyboardInterrupt() if stopped else error)
    errors = Console(stderr=True)
    if stopped:
        errors.print(
            f"stopped; finished stages and the state are kept. Go on with: {command}", markup=False, soft_wrap=True
        )
        return 128 + (signals.received or signal.SIGINT)
    if isinstance(error, UserError):
        for line in error.lines:
            errors.print(f"kdrun: {line}", markup=False, highlight=False, soft_wrap=True)
        return MISTAKE
    errors.print(
        f"kdrun: the run failed: {type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True
    )
    errors.print(f"kdrun: traceback: {_short(run.log_path)}", markup=False, highlight=False, soft_wrap=True)
    return FAILED


@contextlib.contextmanager
def _log(path: Path) -> Iterator[None]:
    """Python's log lines and warnings go to the run's log, not between the bars."""
    import logging

    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def _short(path: Path) -> str:
    """Relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
