"""Run one job: its record from the first moment, its stages through the lab, its summary, its exit code."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdrun.environment import hidden
from kdrun.files import short
from kdrun.parts import is_group
from kdrun.present.console import Console, harmless
from kdrun.problems import UserError, disk_problem

DONE, FAILED, MISTAKE = 0, 1, 2


def run_job(
    job: Any,
    *,
    quiet: bool = False,
    force: bool = False,
    json: bool = False,
    arguments: list[str] | None = None,
    provenance: Any = None,
    folder: Path | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
    max_threads: int | None = None,
) -> int:
    """Run all cells of a job (see config.compose.Job) and return the exit code.

    0 done; 1 failed, the traceback at the end of the run's log; 2 a mistake in the config that only showed now;
    130 or 143 stopped by SIGINT or SIGTERM after the state was saved: the same command goes on.
    force: fit every stage anew even if the store has it. json: print id, folder and summary as JSON, nothing else.
    folder: the run folder in which the job lies frozen already. tell: takes events instead of a console; then nothing is
    printed and the tracker is not waited for. max_threads: upper limit of hardware.threads.
    """
    from kdrun.job.opening import finished_meanwhile, opened
    from kdrun.job.progress import Signals
    from kdrun.ledger.reader import check_reader
    from kdrun.tracking.credentials import resolve_mode
    from kdrun.tracking.provenance import Provenance

    provenance = provenance or Provenance.collect(sys.argv[1:] if arguments is None else arguments)
    quiet = quiet or json or tell is not None
    resolve_mode(job.config["tracker"])  # a tracker that cannot work is told before a folder is made
    if folder is None:
        check_reader(job.config.get("energy"), job.config["hardware"])  # and so is a sensor that is not there
    with job.allowing(), Signals() as signals:
        console = Console(quiet=quiet)
        run = opened(job, folder, provenance, signals, tell, console)
        if isinstance(run, Path):
            return DONE if folder is not None else finished_meanwhile(run, console, json)
        return _run(job, run, console, signals, quiet, force, json, provenance.command, tell, max_threads)


@harmless
def _show(console: Console, run, result: dict[str, Any], mirror) -> None:
    """The panel at the end. The run is over and its record is written: nothing that goes wrong here changes that."""
    from kdrun.job.panel import show

    show(console, result["summary"], *facts(run, result, mirror))


def _run(job, run, console: Console, signals, quiet, force, json, command, tell, max_threads) -> int:
    from kdrun.tracking.mirror import start_mirror, upload_notice

    tracker = job.config["tracker"]
    mirror = result = None
    if tell is None:
        for line in upload_notice(run.dir.parent, tracker):
            print(f"kdrun: {line}", file=sys.stderr)
    try:
        with _log(run.log_path):
            try:
                mirror = start_mirror(run, tracker)
                if mirror and mirror.process and tell:
                    tell({"kind": "mirror", "pid": mirror.process.pid, "timeout": tracker["timeout"]})
                result = execute(job, run, console, signals, quiet, force, tell, max_threads)
                fields = {name: result[name] for name in ("summary", "stages", "audit")}
                code = DONE
                if result["errors"]:
                    seed, error = next(iter(result["errors"].items()))
                    code = _failed(run, error, signals, command, tell, f"seed {seed}: ", **fields)
                else:
                    run.finish(**fields)
                    if job.config.get("card") and tell is None:  # jobs of sweeps and tables make none by themselves
                        from kdrun.hardware.card.ending import card_at_end

                        result["card"] = card_at_end(run.dir)
            except BaseException as error:
                code = _failed(run, error, signals, command, tell)
    finally:
        with contextlib.suppress(OSError):  # told by _failed
            run.close()
    if mirror is not None:
        if tell:
            mirror.end()  # it sends the rest by itself
        elif notice := mirror.finish(tracker["timeout"]):
            console.whole(notice, "yellow")
    if result is not None and not quiet:
        _show(console, run, result, mirror)
    if code == DONE and json:
        from kdrun.files import dump_json

        print(dump_json({"id": run.id, "path": str(run.dir), "summary": result["summary"]}))
    return code


def execute(job, run, console: Console, signals, quiet=False, force=False, tell=None, max_threads=None):
    """Fit all stages of all cells. Returns summary, stages, audit, seconds and errors {seed: exception}.

    A seed that fails does not take the others with it; if all fail, or there is one only, its exception is raised.
    """
    from kdrun.checksums import told
    from kdrun.job.cells import expected, fit_cells, make_lab, name_results, planned_on, stage_entry
    from kdrun.job.progress import EventReport, RunReport
    from kdrun.job.summary import summarise
    from kdrun.lab.lab import Fitted
    from kdrun.learning.device import apply_threads, resolve

    started = time.monotonic()
    hardware = resolve(job.config["hardware"])
    apply_threads(hardware, max_threads)
    cells = [{**cell, "hardware": hardware} for cell in job.cells]
    stages: list[dict[str, Any]] = []
    errors: dict[int, BaseException] = {}
    rows = run.metrics.write_rows
    if tell:
        reporting = EventReport(tell, rows, signals, run.mended)
    else:
        reporting = RunReport(console, rows, signals, quiet, run.mended)
    with contextlib.ExitStack() as sensors, reporting as report, told(report.mended):

        def fitted(item: Fitted) -> None:
            report.finished(item.result.stage.label, item.source, item.result.record)
            stages.append(stage_entry(item))
            run.update(stages=stages)

        def failed(seed: int, error: BaseException) -> None:
            errors[seed] = error
            logging.getLogger("kdrun").error("seed %d failed", seed, exc_info=error)
            report.note(f"seed {seed} failed: {type(error).__name__}: {error}")

        energy = job.config.get("energy")
        lab = make_lab(job.config["paths"], hardware, report, fitted, force=force, energy=energy)
        sensors.callback(lab.shop.close)
        planned = expected(cells[0])
        module = lab.shop.data(job.config["data"])
        if not module.spec.sizes["train"] and any(cell["student"]["weights"] is None for cell in cells):
            name = job.config["data"]["name"]
            raise UserError(f"data={name} has no training samples: it is for evaluation", *module.domain.evaluates)
        audit = module.audit()
        run.update(audit=audit)
        for line in getattr(job, "notes", ()):
            report.note(line)
        if audit.get("summary"):
            report.note(audit["summary"])
        task = module.task()
        notes = task.notes()  # before the first stage, since a score that lacks its package is known now
        from kdrun.learning.beforehand import check_builds  # imports lightning, which `resolve` has made safe

        check_builds(*planned_on(planned, job.config["data"], lab.shop), hardware)
        arms, labels, teachers, against = fit_cells(cells, lab, failed if len(cells) > 1 else None)
        name_results(stages, arms)
    if len(errors) == len(cells):
        raise next(iter(errors.values()))
    summary = summarise(
        task.MAIN, arms, labels, teachers, [cell["seed"] for cell in cells], errors, lab.decisions, against
    )
    summary |= {"baselines": task.baselines(), "notes": notes}
    summary |= {"remarks": list(lab.remarks)} if lab.remarks else {}
    summary["seconds"] = round(time.monotonic() - started, 3)
    return {"summary": summary, "stages": stages, "audit": audit, "seconds": summary["seconds"], "errors": errors}


def facts(run, result: dict[str, Any], mirror) -> tuple[dict[str, str], dict[str, str]]:
    """(lines below the table of the panel, lines below the panel: what can be typed or opened next)."""
    from kdrun.accounting.text import fitted as energy_of_fitted
    from kdrun.accounting.text import joules_text
    from kdrun.present.units import count_of, duration
    from kdrun.tracking.mirror import send_command

    stages, audit = result["stages"], result["audit"]
    fits = [stage for stage in stages if not is_group(stage)]
    stored = sum(stage["source"] == "store" for stage in fits)
    trained = sum(stage["cost"]["seconds"] for stage in stages if stage["source"] != "store")
    new = f"{count_of(len(fits) - stored, 'stage')} run ({duration(trained)}), {stored} found in the store"
    lines, next_ones = {"time": f"{duration(result['seconds'])}; {new}"}, {"details": f"kdrun show {run.id}"}
    if (spent := energy_of_fitted(stages)).joules:
        lines["energy"] = joules_text(spent)
        next_ones["energy"] = f"kdrun energy {run.id}"
    if audit.get("summary"):
        lines["data"] = audit["summary"]
    if remarks := result["summary"].get("remarks"):
        lines["note"] = "\n".join(remarks)
    if result.get("card"):
        lines["card"] = result["card"]
    if mirror is not None:
        lines["W&B"] = mirror.describe()
        if send := send_command(run.dir):
            next_ones["W&B"] = send
    return lines, {**next_ones, "record": short(run.dir)}


def _failed(run, error: BaseException, signals, command: str, tell, prefix: str = "", **fields: Any) -> int:
    """Record how the run ended, tell it in a few lines, and choose the exit code."""
    from kdrun.learning.report import Interrupted

    # A signal that cut something short (a process, a wait) shows as whatever broke: it was still the signal.
    stopped = isinstance(error, (Interrupted, KeyboardInterrupt)) or signals.received is not None
    try:
        run.fail(KeyboardInterrupt() if stopped else error, **fields)
    except OSError as second:  # nothing can be written any more, so that the record says what it said before
        if not stopped and disk_problem(error) is None:
            error = second
    errors = Console(stderr=True, quiet=tell is not None)
    if stopped:
        errors.whole("kdrun: stopped; finished stages and the state of this one are saved. To continue:")
        errors.whole(command)
        return 128 + (signals.received or signal.SIGINT)
    if isinstance(error, UserError):
        for line in error.lines:
            errors.whole(hidden(f"kdrun: {line}"))
        return MISTAKE
    if problem := disk_problem(error):
        for line in problem:
            errors.whole(f"kdrun: {line}")
        errors.whole(command)
        return FAILED
    for text in (
        f"the run failed: {prefix}{type(error).__name__}: {error}",
        f"traceback: {short(run.log_path)}",
    ):
        errors.whole(hidden(f"kdrun: {text}"))
    return FAILED


@contextlib.contextmanager
def _log(path: Path) -> Iterator[None]:
    """Python's log lines and warnings go to the run's log, not between the bars."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None  # a full disk: whatever needs the disk for results says so
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.format = lambda record: hidden(formatter.format(record))
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
        with contextlib.suppress(OSError):
            handler.close()
