"""The loop of a search: ask for trials, run them in the pool of a sweep, tell how they ended.

A trial is a job like any other: frozen before it starts, found again by its hash, finished once. The study remembers
what was asked and told; the records of the runs remember what came out. Either survives a kill at any moment.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kdrun.problems import UserError
from kdrun.processes.pool import gpus_of
from kdrun.sweep.objectives import Unmeasured, arm, measure
from kdrun.sweep.search_settings import SearchSettings
from kdrun.sweep.search_study import COMPLETE, FAILED, PRUNED, RUNNING, state_of

SEARCH_FAILED = 3


@dataclass
class Active:
    """A trial whose job is in the pool.

    devices  GPUs of its job
    watched  label of the stage whose epochs are compared with those of other trials
    known    epochs of it that the study has already
    twins    later trials of the same job, which end with it
    """

    number: int
    folder: Path
    job_hash: str
    watched: str
    devices: int
    known: set[int] = field(default_factory=set)
    tries: int = 1
    begun: bool = False
    pruned: bool = False
    twins: list[int] = field(default_factory=list)


class SearchLoop:
    """The loop. Trials, points of the plan and jobs of the pool have the same numbers."""

    def __init__(
        self, plan, study, space, objectives, result, settings: SearchSettings, pruner: str, jobs, retry, force
    ):
        self.plan, self.study, self.space, self.objectives = plan, study, space, objectives
        self.result, self.settings, self.jobs = result, settings, jobs
        self.retry, self.force = retry, force
        self.watched = objectives[0].watched if pruner == "median" else None
        self.active: dict[int, Active] = {}
        self.pool: Any = None
        self.mirrors: list[tuple[Path, int, float]] = []

    def run(self) -> int:
        from kdrun.job.progress import Signals

        minutes = self.settings.timeout_minutes
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._remember()
        self.result.save()
        with contextlib.ExitStack() as stack, Signals() as signals, self.result:
            self.stack = stack
            self._loop(signals)
        self.result.save()
        self.result.show()
        left = self.settings.n_trials - len(self.study.trials())
        if left > 0 and not signals.received:
            self.result.note(f"time is up with {left} trials left; the same command continues the search")
        if signals.received:
            print(
                "kdrun: stopped; finished trials are kept and the state of the others is saved. To continue:",
                file=sys.stderr,
            )
            print(self.plan.command, file=sys.stderr)
            return 128 + signals.received
        return SEARCH_FAILED if self.result.failed() else 0

    def _loop(self, signals) -> None:
        for trial in self.study.trials():
            if state_of(trial) == RUNNING:
                self._go_on(trial)
        if self.retry:
            for trial in self.result.failed():
                self._begin(trial.params, {}, retry_of=trial.number)
        stopping = False
        while True:
            while not stopping and not signals.received and len(self.active) < self.jobs and self._wanted():
                self._begin(*self.study.draw(len(self.study.trials())))
            if not self.active or (stopping and not self.pool.busy):
                break
            for event in self.pool.events(0.2):
                self._handle(event, stopping)
            if signals.received and not stopping:
                stopping = True
                self.result.note("saving the state of the running trials (once more: stop at once)")
                self.pool.cancel()
                self.pool.stop()
        if self.mirrors:
            from kdrun.sweep.execute import wait_for_mirrors

            wait_for_mirrors(self.mirrors, signals)

    def _wanted(self) -> bool:
        """Whether one more trial is to be asked for. A trial run again does not take the place of another."""
        trials = self.study.trials()
        again = sum("retry_of" in trial.user_attrs for trial in trials)
        return len(trials) - again < self.settings.n_trials and time.monotonic() < self.deadline

    def _remember(self) -> None:
        """The points of what earlier calls asked for, as the study has them."""
        from kdrun.sweep.plan import Point

        for trial in self.study.trials():
            known = trial.user_attrs
            job = SimpleNamespace(hash=known["job_hash"])
            self.plan.points.append(
                Point(trial.number, known["overrides"], job, run_id=known["run"], folder=self._folder(known["run"]))
            )

    def _folder(self, run: str | None) -> Path | None:
        from kdrun.tracking.registry import runs_folder

        return runs_folder(self.plan.outputs).resolve() / run if run else None

    # how a trial begins

    def _begin(self, drawn: dict[str, Any], notes: dict[str, Any], **attributes: Any) -> None:
        """One new trial: composed, frozen, written into the study and started; or ended at once where its end is known."""
        from kdrun.sweep.plan import DONE, Point, freeze_point
        from kdrun.tracking.record import FAILURES

        overrides = self.space.overrides(drawn)
        try:
            point = self.plan.add(overrides)
        except UserError as error:
            self.plan.points.append(Point(len(self.plan.points), overrides, SimpleNamespace(hash=None)))
            known = {"overrides": overrides, "job_hash": None, "run": None, **attributes}
            number = self.study.add(drawn, notes, error="; ".join(error.lines), **known)
            self.study.fail(number, "; ".join(error.lines))
            self._ended(number)
            return
        twin = self._twin(point.job.hash)
        failed = point.status in FAILURES and not self.retry
        if twin is not None:
            before = self.plan.points[twin]
            point.run_id, point.folder = before.run_id, before.folder
        elif self.force or not (point.status == DONE or failed):
            freeze_point(self.plan, point)
        known = {"overrides": overrides, "job_hash": point.job.hash, "run": point.run_id, **attributes}
        self._place(self.study.add(drawn, notes, **known), twin)

    def _go_on(self, trial: Any) -> None:
        """A trial without an end: the process that ran it is gone."""
        from kdrun.sweep.plan import freeze_point
        from kdrun.tracking.registry import read_run

        known, point = trial.user_attrs, self.plan.points[trial.number]
        if known["run"] is None:
            self.study.fail(trial.number, known["error"])
            self._ended(trial.number)
            return
        twin = self._twin(known["job_hash"], before=trial.number)
        if twin is None and read_run(point.folder).record is None:  # deleted or damaged: the same job, frozen again
            from kdrun.job.compose import compose

            point.job = compose(point.overrides, self.plan.conf_dirs)
            freeze_point(self.plan, point)
            self.study.note(trial.number, run=point.run_id)
        self._place(trial.number, twin, again=True)

    def _twin(self, job_hash: str, before: int | None = None) -> int | None:
        """The trial of the same job that runs now, else the last one that ended in a way that counts."""
        for active in self.active.values():
            if active.job_hash == job_hash:
                return active.number
        for trial in reversed(self.study.trials()[:before]):
            counts = (COMPLETE, PRUNED) if self.retry else (COMPLETE, PRUNED, FAILED)
            if trial.user_attrs["job_hash"] == job_hash and state_of(trial) in counts:
                return trial.number
        return None

    def _place(self, number: int, twin: int | None, again: bool = False) -> None:
        """Start a trial that is in the study, or end it where there is nothing to run."""
        from kdrun.tracking.record import DONE, FAILURES
        from kdrun.tracking.registry import read_run

        point = self.plan.points[number]
        if twin in self.active:
            self.active[twin].twins.append(number)
            return
        if twin is not None:
            self.study.like(number, twin)
            self._ended(number)
            return
        info = read_run(point.folder)
        record = info.record or {}
        role = "alone" if record["config"]["strategy"]["_target_"].endswith(".Alone") else "student"
        known = set(self.study.trial(number).intermediate_values)
        watched, devices = f"{role}/seed={record['seeds'][0]}", gpus_of(record["config"]["hardware"])
        trial = Active(number, point.folder, point.job.hash, watched, devices, known)
        trial.pruned = again and self.study.should_prune(number)
        if trial.pruned or info.status == DONE or (info.status in FAILURES and not self.retry):
            self._end(trial, info.status, record["error"])
            return
        self.active[number] = trial
        self._submit(trial, record["config"])

    def _submit(self, trial: Active, config: dict[str, Any]) -> None:
        from kdrun.processes.pool import targets_of

        if self.pool is None:
            from kdrun.sweep.pool import Pool

            self.pool = self.stack.enter_context(Pool(self.jobs))
            self.pool.preload(targets_of([config]))
        self.result.started(trial.number)
        self.pool.submit(trial.number, trial.folder, self.force, devices=trial.devices)

    # how it ends

    def _handle(self, event: dict[str, Any], stopping: bool) -> None:
        trial = self.active[event["number"]]  # its "end" is the last event of a job
        if event["kind"] == "start":
            trial.begun = True
        elif event["kind"] == "mirror":
            self.mirrors.append((trial.folder, event["pid"], event["timeout"]))
        elif event["kind"] == "epoch":
            self.result.epoch(event)
            watched = event["label"] == trial.watched and not trial.pruned
            if watched and self._worse(trial, event["epoch"], event["values"]):
                trial.pruned = True
                self.pool.stop(trial.number)
        elif event["kind"] == "end":
            if not trial.begun:
                raise RuntimeError("the process that starts trials is gone; the same command continues the search")
            if event["status"] == "interrupted" and not trial.pruned:
                if stopping:
                    return
                if trial.tries == 1:  # its process was killed: once more, from its last checkpoint
                    trial.tries, trial.begun = 2, False
                    self._submit(trial, {})
                    return
            del self.active[trial.number]
            self._end(trial, event["status"], event.get("error"))

    def _worse(self, trial: Active, epoch: int, values: dict[str, Any]) -> bool:
        """Report a validated epoch; whether the trial is to be given up after it. A known one was decided before."""
        value = values.get(self.watched) if self.watched else None
        if epoch in trial.known or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        trial.known.add(epoch)
        self.study.report(trial.number, epoch, value)
        return self.study.should_prune(trial.number)

    def _end(self, trial: Active, status: str, error: dict[str, Any] | None) -> None:
        from kdrun.tracking.record import DONE, INTERRUPTED, read_record
        from kdrun.tracking.record import PRUNED as PRUNED_RUN
        from kdrun.tracking.record import RUNNING as RUNNING_RUN
        from kdrun.tracking.registry import end_run

        number = trial.number
        if status == DONE:
            record = read_record(trial.folder)
            trial.pruned = trial.pruned or self._would_have_been_pruned(trial, record)
        if trial.pruned:
            if status in (INTERRUPTED, RUNNING_RUN):
                end_run(trial.folder, PRUNED_RUN)
            self.study.prune(number)
        elif status == DONE:
            latencies = self.study.latencies
            try:
                values = measure(self.objectives, record, latencies)
                self.study.latencies = latencies
                self.study.complete(number, values)
            except Unmeasured as reason:
                self.study.fail(number, str(reason))
        else:
            self.study.fail(number, f"{status}: {error['type']}: {error['message']}" if error else status)
        self._ended(number)
        for twin in trial.twins:
            self.study.like(twin, number)
            self._ended(twin)

    def _would_have_been_pruned(self, trial: Active, record: dict[str, Any]) -> bool:
        """The epochs nobody reported, because this process was killed or the job was done before, decide as if they
        had been: the search then goes the way an undisturbed one would have gone.
        """
        if self.watched is None:
            return False
        from kdrun.tracking.metrics import read_metrics
        from kdrun.tracking.record import METRICS

        label = f"{arm(record)}/seed={record['seeds'][0]}"
        rows = read_metrics(trial.folder / METRICS, label)
        return any(self._worse(trial, row["epoch"], {self.watched: row.get(f"val/{self.watched}")}) for row in rows)

    def _ended(self, number: int) -> None:
        self.result.save()
        self.result.ended(number)
