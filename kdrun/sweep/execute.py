"""Run a plan: freeze it, run its jobs in clean processes, tell what happens, leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdrun.job.progress import Signals
from kdrun.present.console import Console
from kdrun.problems import UserError
from kdrun.processes.pool import gpus_of, targets_of
from kdrun.sweep.board import Board, count, show_plan, show_results
from kdrun.sweep.plan import DONE, Point, SweepPlan, freeze
from kdrun.sweep.pool import Pool
from kdrun.tracking.record import FAILURES

SWEEP_FAILED = 3


def execute(
    plan: SweepPlan,
    *,
    jobs: int = 1,
    retry: bool = False,
    force: bool = False,
    quiet: bool = False,
    silent: bool = False,
    results: bool = True,
    json: bool = False,
    launcher: str | None = None,
    settings: Sequence[str] = (),
    pool: Pool | None = None,
) -> int:
    """Run what is not done of a plan and return 0, 3 (some job is not done) or 130/143 (stopped by a signal).

    jobs      processes at a time on this machine; where there are fewer jobs, each runs stages of its own side by side
    quiet     no tables; silent: nothing at all; results=False leaves out the table at the end
    pool      a pool that was started while the plan was made; its number of jobs is then what counts
    launcher  name of a launcher that runs the jobs instead, with its settings (`hydra.launcher.KEY=VALUE`)
    json      print the jobs with their results as JSON to standard output, people's lines to standard error
    """
    console = Console(stderr=json, quiet=quiet)
    for line in _upload_notice(plan):
        print(f"kdrun: {line}", file=sys.stderr)
    if launcher:
        from kdrun.sweep.launchers import check

        check(launcher, settings, _gpus(plan.points), nodes_of(plan.points))
    elif (nodes := nodes_of(plan.points)) > 1:
        raise UserError(
            f"hardware.nodes={nodes}: jobs of a sweep over several nodes are for hydra/launcher=submitit_slurm"
        )
    todo = freeze(plan, retry=retry, force=force)
    if not quiet:
        show_plan(plan, console, {point.number for point in todo})
    code = 0
    with contextlib.ExitStack() as allowed:
        for point in todo:
            allowed.enter_context(point.job.allowing())
        if todo and launcher:
            code = _launch(plan, todo, launcher, settings, force, console, quiet)
        elif todo:
            with pool or Pool(min(jobs, len(todo))) as running:
                within = max(1, (jobs if pool is None else pool.jobs) // len(todo))
                code = _run(plan, todo, running, force, console, quiet, within)
    for point in plan.points:
        point.look()
    if json:
        print_json(plan)
    elif results and not quiet:
        show_results(plan, console)
    errors = Console(stderr=True, quiet=silent)
    if code:
        errors.whole("kdrun: stopped; finished jobs are kept and the state of the others is saved. To continue:")
        errors.whole(plan.command)
        return code
    if any(point.status != DONE for point in plan.points):
        left = ", ".join(f"{number} {name}" for name, number in count(plan.points).items() if name != DONE)
        again = " (failed ones again: --retry)" if any(p.status in FAILURES for p in plan.points) else ""
        errors.whole(f"kdrun: not every job is done: {left}{again}")
        return SWEEP_FAILED
    return 0


def _gpus(points: Sequence[Point]) -> int:
    """The most GPUs that one of these jobs asks for by name; 0 where none does."""
    asked = [point.job.config["hardware"] for point in points]
    return max((hardware["devices"] for hardware in asked if hardware["device"] == "cuda"), default=0)


def nodes_of(points: Sequence[Point]) -> int:
    """How many nodes each of these jobs is over. UserError where they differ: a launcher has one setting for all."""
    counts = {point.job.config["hardware"].get("nodes", 1) for point in points}
    if len(counts) > 1:
        raise UserError(
            f"hardware.nodes={','.join(map(str, sorted(counts)))}: jobs of one launch are over as many nodes each"
        )
    return next(iter(counts), 1)


def _upload_notice(plan: SweepPlan) -> list[str]:
    """See `tracking.mirror.upload_notice`; of the first point whose tracker would send something."""
    from kdrun.tracking.mirror import upload_notice
    from kdrun.tracking.registry import runs_folder

    notices = (upload_notice(runs_folder(plan.outputs), point.job.config["tracker"]) for point in plan.points)
    return next(filter(None, notices), [])


def _launch(
    plan: SweepPlan,
    todo: list[Point],
    launcher: str,
    settings: Sequence[str],
    force: bool,
    console: Console,
    quiet: bool,
) -> int:
    """Hand the frozen jobs to a launcher; returns 0 or the code of a signal that stopped it."""
    from kdrun.sweep.launchers import launch

    folders = {point.number: point.folder for point in todo}
    with Board(plan, console, quiet) as board:
        board.chosen = set(folders)

        def report(event: dict[str, Any]) -> None:
            if event["kind"] == "end":
                point = plan.points[event["number"]]
                point.status, point.error = event["status"], event["error"]
            board.event(event)

        return launch(folders, launcher, list(settings), plan.folder, force, report, _gpus(todo), nodes_of(todo))


def _run(
    plan: SweepPlan, todo: list[Point], pool: Pool, force: bool, console: Console, quiet: bool, within: int
) -> int:
    """Feed the pool until all jobs have ended or a signal came; returns 0 or 128 + the signal. within: stages of each job at a time."""
    pool.preload(targets_of(point.job.config for point in todo))
    mirrors: list[tuple[Path, int, float]] = []
    with Signals() as signals, Board(plan, console, quiet) as board:
        board.chosen = {point.number for point in todo}
        for point in todo:
            pool.submit(point.number, point.folder, force, within, gpus_of(point.job.config["hardware"]))
        asked = False
        while pool.busy or pool.waiting:
            for event in pool.events(0.2):
                point = plan.points[event["number"]]
                if event["kind"] == "mirror":
                    mirrors.append((point.folder, event["pid"], event["timeout"]))
                elif event["kind"] == "end":
                    point.status, point.error = event["status"], event["error"]
                board.event(event)
            if signals.received and not asked:
                asked = True
                console.print("saving the state of the running jobs (Ctrl-C again: stop at once, unsaved)", style="dim")
                pool.cancel()
                pool.stop()
        wait_for_mirrors(mirrors, signals)
        return 128 + signals.received if signals.received else 0


def wait_for_mirrors(mirrors: list[tuple[Path, int, float]], signals: Signals) -> None:
    """Give the W&B mirrors, all at once, the time each was promised; then none of them is left."""
    from kdrun.tracking.mirror import read_state

    end = time.monotonic() + max((timeout for _, _, timeout in mirrors), default=0.0)
    left = mirrors
    while left and time.monotonic() < end and not signals.received:
        left = [mirror for mirror in left if not read_state(mirror[0]).get("finished") and _alive(mirror[1])]
        if left:
            time.sleep(0.1)
    for folder, pid, _ in left:
        if _alive(pid) and not read_state(folder).get("finished"):
            _kill(pid)


def _alive(pid: int) -> bool:
    """False for a process that is gone, and for one that only waits to be collected."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except (OSError, IndexError):
        return True


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def print_json(plan: SweepPlan) -> None:
    """The jobs with their results: [{"number", "id", "overrides", "status", "summary", "error"}]."""
    from kdrun.files import dump_json

    shown: list[dict[str, Any]] = [
        {
            "number": point.number,
            "id": point.run_id,
            "path": str(point.folder) if point.folder else None,
            "overrides": point.overrides,
            "status": point.status,
            "teacher": point.teacher,
            "summary": point.record.get("summary") or None,
            "error": point.record.get("error"),
        }
        for point in plan.points
    ]
    print(dump_json(shown))
