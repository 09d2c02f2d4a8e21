"""Run one job: its record from the first moment, its stages through the lab, its summary, its exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdrun import kinds
from kdrun.environment import hidden
from kdrun.files import short
from kdrun.nodes import place_of
from kdrun.parts import trained_nothing
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
    jobs: str | None = "1",
) -> int:
    """Run all cells of a job (see config.compose.Job) and return the exit code.

    0 done; 1 failed, the traceback at the end of the run's log; 2 a mistake in the config that only showed now;
    130 or 143 stopped by SIGINT or SIGTERM after the state was saved: the same command goes on.
    force: fit every stage anew even if the store has it. json: print id, folder and summary as JSON, nothing else.
    folder: the run folder in which the job lies frozen already. tell: takes events instead of a console; then nothing is
    printed and the tracker is not waited for. max_threads: upper limit of hardware.threads. jobs: stages at a time, as typed; None:
    as processes.pool.jobs_within has it.
    """
    hardware, paths = job.config["hardware"], job.config["paths"]
    place = place_of(hardware)
    if place is not None and not place.first:
        from kdrun.learning.board import follow

        return follow(place, paths)
    if folder is None:
        data = job.config["data"]
        with job.allowing():
            kinds.find(data["task"]).check_here(data)  # told before torch is imported
    from kdrun.job.cells import fit_cells
    from kdrun.job.opening import finished_meanwhile, opened
    from kdrun.job.progress import Signals
    from kdrun.job.sequential import fit
    from kdrun.job.work import work_of
    from kdrun.learning.board import led
    from kdrun.ledger.reader import check_reader
    from kdrun.processes.pool import jobs_within
    from kdrun.tracking.credentials import resolve_mode
    from kdrun.tracking.provenance import Provenance

    provenance = provenance or Provenance.collect(sys.argv[1:] if arguments is None else arguments)
    quiet, tracker = quiet or json or tell is not None, job.config["tracker"]
    resolve_mode(tracker)  # a tracker that cannot work is told before a folder is made
    at_once = jobs_within(jobs, hardware) if place is None else 1
    if folder is None:
        check_reader(job.config.get("energy"), job.config["hardware"])  # and so is a sensor that is not there
    with job.allowing(), Signals() as signals:
        console = Console(quiet=quiet)
        run = opened(job, folder, provenance, signals, tell, console)
        if isinstance(run, Path):
            return DONE if folder is not None else finished_meanwhile(run, console, json)
        ending = Ending(run, signals, provenance.command, tell)
        with ending.recorded(tracker):
            ending.start_mirror(tracker)
            how = {"force": force, "max_threads": max_threads, "jobs": at_once}
            with led(hardware, paths), work_of(job, run, console, signals, quiet=quiet, tell=tell, **how) as work:
                sequential = work.cells[0]["looks"] is not None
                fitted = fit(work) if sequential else fit_cells(work.cells, work.lab, work.failed)
            ending.finish(work.result(*fitted), card=bool(job.config.get("card")))
        ending.show(console, tracker, quiet, json)
        return ending.code


class Ending:
    """How a run ends: its record and log, its mirror, what is told, the exit code.

    tell: takes events instead of a console, or None. command: what continues the run.
    """

    def __init__(self, run, signals, command: str, tell: Callable[[dict[str, Any]], None] | None):
        self.run, self.signals, self.command, self.tell = run, signals, command, tell
        self.code = FAILED
        self.mirror: Any = None
        self.result: dict[str, Any] | None = None

    @contextlib.contextmanager
    def recorded(self, tracker: dict[str, Any]) -> Iterator[None]:
        """What is raised inside is recorded and told, and decides the exit code."""
        from kdrun.job.log import logged

        if self.tell is None:
            from kdrun.tracking.mirror import upload_notice

            for line in upload_notice(self.run.dir.parent, tracker):
                print(f"kdrun: {line}", file=sys.stderr)
        try:
            with logged(self.run.log_path):
                try:
                    yield
                except BaseException as error:
                    self.fail(error)
        finally:
            with contextlib.suppress(OSError):  # told by fail
                self.run.close()

    def start_mirror(self, tracker: dict[str, Any]) -> None:
        from kdrun.tracking.mirror import start_mirror

        self.mirror = start_mirror(self.run, tracker)
        if self.mirror and self.mirror.process and self.tell:
            self.tell({"kind": "mirror", "pid": self.mirror.process.pid, "timeout": tracker["timeout"]})

    def finish(self, result: dict[str, Any], card: bool) -> None:
        """Records the result of Work, of which some seeds may have failed. card: whether one is made."""
        self.result = result
        fields = {name: result[name] for name in ("summary", "stages", "audit")}
        if result["errors"]:
            seed, error = next(iter(result["errors"].items()))
            self.fail(error, f"seed {seed}: ", **fields)
            return
        self.run.finish(**fields, seeds=result["seeds"])
        if card and self.tell is None:  # jobs of sweeps and tables make none by themselves
            from kdrun.hardware.card.ending import card_at_end

            result["card"] = card_at_end(self.run.dir)
        self.code = DONE

    def show(self, console: Console, tracker: dict[str, Any], quiet: bool, json: bool) -> None:
        """What people see when all is over; the mirror has its time for the rest."""
        if self.mirror is not None:
            if self.tell:
                self.mirror.end()  # it sends the rest by itself
            elif notice := self.mirror.finish(tracker["timeout"]):
                console.whole(notice, "yellow")
        if self.result is not None and not quiet:
            _show(console, self.run, self.result, self.mirror)
        if self.code == DONE and json:
            from kdrun.files import dump_json

            print(dump_json({"id": self.run.id, "path": str(self.run.dir), "summary": self.result["summary"]}))

    def fail(self, error: BaseException, prefix: str = "", **fields: Any) -> None:
        """Records how the run ended, tells it in a few lines, and chooses the exit code."""
        from kdrun.learning.report import Interrupted

        # A signal that cut something short (a process, a wait) shows as whatever broke: it was still the signal.
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt)) or self.signals.received is not None
        try:
            self.run.fail(KeyboardInterrupt() if stopped else error, **fields)
        except OSError as second:  # nothing can be written any more, so that the record says what it said before
            if not stopped and disk_problem(error) is None:
                error = second
        errors = Console(stderr=True, quiet=self.tell is not None)
        if stopped:
            errors.whole("kdrun: stopped; finished stages and the state of this one are saved. To continue:")
            errors.whole(self.command)
            self.code = 128 + (self.signals.received or signal.SIGINT)
        elif isinstance(error, UserError):
            for line in error.lines:
                errors.whole(hidden(f"kdrun: {line}"))
            self.code = MISTAKE
        elif problem := disk_problem(error):
            for line in problem:
                errors.whole(f"kdrun: {line}")
            errors.whole(self.command)
            self.code = FAILED
        else:
            for text in (
                f"the run failed: {prefix}{type(error).__name__}: {error}",
                f"traceback: {short(self.run.log_path)}",
            ):
                errors.whole(hidden(f"kdrun: {text}"))
            self.code = FAILED


@harmless
def _show(console: Console, run, result: dict[str, Any], mirror) -> None:
    """The panel at the end. The run is over and its record is written: nothing that goes wrong here changes that."""
    from kdrun.job.panel import show

    show(console, result["summary"], *facts(run, result, mirror))


def facts(run, result: dict[str, Any], mirror) -> tuple[dict[str, str], dict[str, str]]:
    """(lines below the table of the panel, lines below the panel: what can be typed or opened next)."""
    from kdrun.accounting.text import fitted as energy_of_fitted
    from kdrun.accounting.text import joules_text
    from kdrun.present.units import count_of, duration
    from kdrun.tracking.mirror import send_command

    stages, audit = result["stages"], result["audit"]
    fits = [stage for stage in stages if not trained_nothing(stage)]
    stored = sum(stage["source"] == "store" for stage in fits)
    trained = sum(stage["cost"]["seconds"] for stage in stages if stage["source"] != "store")
    jobs = max((stage["cost"].get("jobs", 1) for stage in stages if stage["source"] != "store"), default=1)
    beside = f", {jobs} at a time" if jobs > 1 else ""
    new = f"{count_of(len(fits) - stored, 'stage')} run ({duration(trained)}{beside}), {stored} found in the store"
    lines, next_ones = {"time": f"{duration(result['seconds'])}; {new}"}, {"details": f"kdrun show {run.id}"}
    if (spent := energy_of_fitted(stages)).joules:
        lines["energy"] = joules_text(spent)
        next_ones["energy"] = f"kdrun energy {run.id}"
    if settle := result["summary"].get("to_settle"):
        next_ones["settle it"] = settle["command"]
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
