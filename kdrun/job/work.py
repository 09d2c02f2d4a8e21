"""What a job is fitted with: its cells, its lab and its report, and the summary of what came out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kdrun import kinds
from kdrun.job.cells import expected, make_lab, name_results, planned_on, stage_entry
from kdrun.job.seen import seen_by
from kdrun.job.steps import add_counts
from kdrun.present.console import Console
from kdrun.problems import UserError


@dataclass
class Work:
    """The cells of a job while they are fitted.

    stages  as the record lists them; errors: of the seeds that failed, while others go on
    validation: number of its samples; sequential: why there are as many seeds, with seeds=auto (see job.sequential)
    ahead   fingerprint -> a stage that is done and has not been asked for: others are, which come first
    """

    run: Any
    report: Any
    cells: list[dict[str, Any]]
    started: float
    stages: list[dict[str, Any]] = field(default_factory=list)
    ahead: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    lab: Any = None
    task: Any = None
    audit: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    validation: int | None = None
    sequential: dict[str, Any] | None = None

    @property
    def failed(self) -> Callable[[int, BaseException], None] | None:
        """Takes a seed that failed and its exception: it does not take the others with it. None where there is only one."""
        return self._failed if len(self.cells) > 1 else None

    def _failed(self, seed: int, error: BaseException) -> None:
        self.errors[seed] = error
        logging.getLogger("kdrun").error("seed %d failed", seed, exc_info=error)
        self.report.note(f"seed {seed} failed: {type(error).__name__}: {error}")

    def fitted(self, item: Any) -> None:
        """Records a stage that the job used."""
        if self.ahead.pop(item.result.fingerprint, None) is None:
            self.report.finished(item.result.stage.label, item.source, item.result.record)
        self.stages.append(stage_entry(item))
        self._update()

    def fitted_ahead(self, item: Any) -> None:
        """Records a stage that the job will use."""
        self.report.finished(item.result.stage.label, item.source, item.result.record)
        self.ahead[item.result.fingerprint] = stage_entry(item)
        self._update()

    def _update(self) -> None:
        self.run.update(stages=[*self.stages, *self.ahead.values()])

    def result(self, arms, labels, teachers, against) -> dict[str, Any]:
        """Summary, stages, audit, seconds and errors {seed: exception}, of what cells.fit_cells returned.

        Raises the exception of the first seed where all failed.
        """
        from kdrun.job.sequential import judge
        from kdrun.job.summary import judged_within, summarise
        from kdrun.present.verdict import to_settle, verdict

        name_results(self.stages, arms)
        if len(self.errors) == len(self.cells):
            raise next(iter(self.errors.values()))
        add_counts(arms, self.stages, self.validation)
        seeds = [cell["seed"] for cell in self.cells]
        summary = summarise(self.task.MAIN, arms, labels, teachers, seeds, self.errors, self.lab.decisions, against)
        summary |= {"baselines": self.task.baselines(), "notes": self.notes}
        vary = self.cells[0].get("vary") or ["student"]
        summary |= {"vary": vary} if len(vary) > 1 else {}
        summary |= {"seen": seen} if (seen := seen_by(self.stages, self.cells[0], list(arms))) else {}
        judged_within(summary, self.cells[0]["margin"])
        if self.sequential:
            judge(summary, self.sequential)
        summary |= {"remarks": list(self.lab.remarks)} if self.lab.remarks else {}
        summary["to_settle"] = to_settle(summary, self.stages, self.run.record["overrides"])
        summary["verdict"] = verdict(summary)
        seconds = summary["seconds"] = round(time.monotonic() - self.started, 3)
        kept = {"stages": self.stages, "audit": self.audit, "errors": self.errors, "seeds": seeds}
        return {"summary": summary, "seconds": seconds, **kept}


@contextlib.contextmanager
def work_of(job, run, console: Console, signals, *, quiet=False, tell=None, **options) -> Iterator[Work]:
    """The work of a job, its data looked at and everything that it names built once. Arguments and options (force, max_threads,
    jobs) as of kdrun.run.run_job."""
    from kdrun.checksums import told
    from kdrun.job.progress import EventReport, RunReport
    from kdrun.learning.device import apply_threads, check_teachers, resolve

    started, rows = time.monotonic(), run.metrics.write_rows
    domain = kinds.find(job.config["data"]["task"])
    shown = {"mends": run.mended, "scores": (domain.main, domain.monitor)}
    if tell:
        reporting = EventReport(tell, rows, signals, **shown)
    else:
        reporting = RunReport(console, rows, signals, quiet, **shown)
    with contextlib.ExitStack() as stack:
        pool = _pool(job, options["jobs"], stack)  # it imports while this process does
        hardware = resolve(job.config["hardware"])
        check_teachers(job.config)
        apply_threads(hardware, options["max_threads"])
        report = stack.enter_context(reporting)
        stack.enter_context(told(report.mended))
        work = Work(run, report, [{**cell, "hardware": hardware} for cell in job.cells], started)
        how = {"force": options["force"], "energy": job.config.get("energy")}
        work.lab = make_lab(job.config["paths"], hardware, report, work.fitted, **how, **_side(work, job, pool, how))
        stack.callback(work.lab.workshop.close)
        _look(work, job, hardware)
        yield work


def _pool(job, jobs: int, stack: contextlib.ExitStack) -> Any:
    """So many processes for stages of the job side by side; None where they run one after another."""
    if jobs == 1:
        return None
    from kdrun.job.parallel_lab import several_at_once
    from kdrun.processes.pool import ProcessPool, targets_of

    if not several_at_once(job.cells):
        return None
    return stack.enter_context(ProcessPool(jobs, targets_of(job.cells), job.config["hardware"]["devices"]))


def _side(work: Work, job, pool: Any, how: dict[str, Any]) -> dict[str, Any]:
    """Options of make_lab for a lab whose stages run in processes of this pool."""
    if pool is None:
        return {}
    from kdrun.job.parallel_lab import ParallelLab
    from kdrun.job.stage_pool import StagePool

    shared = {"paths": job.config["paths"], "hardware": work.cells[0]["hardware"], "jobs": pool.jobs, **how}
    return {
        "kind": ParallelLab,
        "pool": StagePool(pool, shared, work.report, work.run.log_path),
        "ahead": work.fitted_ahead,
    }


def _look(work: Work, job, hardware: dict[str, Any]) -> None:
    """Reads the data, notes what is to be known of them, and builds each network of the plan once."""
    workshop, data = work.lab.workshop, job.config["data"]
    planned = expected(work.cells[0], workshop)
    module = workshop.data(data)
    if not module.spec.sizes["train"] and any(cell["student"]["weights"] is None for cell in work.cells):
        raise UserError(f"data={data['name']} has no training samples: it is for evaluation", *module.domain.evaluates)
    work.audit, work.validation = module.audit(), module.spec.sizes.get("val")
    work.run.update(audit=work.audit)
    for line in getattr(job, "notes", ()):
        work.report.note(line)
    if work.audit.get("summary"):
        work.report.note(work.audit["summary"])
    for cell in work.cells[1:]:  # copies of a sample that are in one split for one seed are in two for another
        summary = work.audit.get("summary")
        if cell["data"] != data and (other := workshop.data(cell["data"]).audit().get("summary")) != summary:
            work.report.note(f"seed {cell['seed']}: {other}")
    work.task = module.task()
    work.notes = work.task.notes()  # before the first stage, since a score that lacks its package is known now
    from kdrun.learning.beforehand import check_aligned, check_builds

    check_builds(*planned_on(planned, data, workshop), hardware)
    check_aligned(planned, workshop)
