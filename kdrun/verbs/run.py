"""kdrun [overrides]: run one job; with -m, one job per combination of comma-separated values."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from kdrun.problems import UserError

SWEEP_FAILED = 3


def main(args) -> int:
    from kdrun.config.compose import compose, split_sweep

    if not args.multirun:
        from kdrun.run import run_job

        job = compose(args.overrides, args.conf_dirs)
        return run_job(job, quiet=args.quiet, force=args.force, json=args.json)
    return sweep(split_sweep(args.overrides, args.conf_dirs), args)


def sweep(points: list[list[str]], args) -> int:
    """Compose and freeze all jobs first, then run them one after another; finished ones are not run again.

    Returns 0, 3 if a job failed, or 130/143 after a signal, with the jobs that are left named.
    """
    from kdrun.config.compose import compose
    from kdrun.run import run_job
    from kdrun.tracking.credentials import resolve_mode
    from kdrun.tracking.provenance import Provenance, write_start
    from kdrun.tracking.registry import finished_run, plan_run

    jobs = compose_all(points, compose, args.conf_dirs)
    for job in jobs:
        resolve_mode(job.config["tracker"])
    provenance = Provenance.collect(sys.argv[1:])
    states: list[dict[str, Any]] = []
    for point, job in zip(points, jobs, strict=True):
        outputs = job.config["paths"]["outputs"]
        done = None if args.force else finished_run(outputs, job.hash)
        if done is None:
            planned = plan_run(outputs, job.config["name"], job.hash)
            write_start(planned, job, provenance)  # editing conf/ from here on changes nothing
            planned.close()
        state = {
            "overrides": point,
            "job": job,
            "status": "done" if done else "planned",
            "id": done.id if done else planned.id,
        }
        states.append({**state, "was_done": done is not None})
    code = 0
    say = partial(print, flush=True, file=sys.stderr if args.json else sys.stdout)
    for number, state in enumerate(states, start=1):
        if state["was_done"]:
            say(f"[{number}/{len(states)}] {' '.join(state['overrides'])}: done before ({state['id']})")
            continue
        say(f"[{number}/{len(states)}] {' '.join(state['overrides'])}")
        result = run_job(state["job"], quiet=args.quiet or args.json, force=args.force, provenance=provenance)
        state["status"] = {0: "done"}.get(result, "interrupted" if result >= 128 else "failed")
        if result >= 128:
            code = result
            break
        if result != 0:
            code = SWEEP_FAILED
    _report(states, args)
    if code >= 128:
        print(f"go on with: {provenance.command}", file=sys.stderr)
    return code


def compose_all(points: list[list[str]], compose, conf_dirs) -> list[Any]:
    """All jobs, or one error that names every point that does not compose."""
    jobs, lines = [], []
    for point in points:
        try:
            jobs.append(compose(point, conf_dirs))
        except UserError as error:
            lines += [line for line in error.lines if line not in lines]
    if lines:
        raise UserError(*lines)
    return jobs


def _report(states: list[dict[str, Any]], args) -> None:
    from kdrun.tracking.registry import find_run

    for state in states:
        info = find_run(state["job"].config["paths"]["outputs"], state["id"])
        state["summary"] = (info.record or {}).get("summary") or None
        state["error"] = (info.record or {}).get("error")
    if args.json:
        import json

        shown = [{k: state[k] for k in ("id", "overrides", "status", "summary", "error")} for state in states]
        print(json.dumps(shown, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from kdrun.panel import cell, share

    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("job", "overrides", "status", "test best, %", "gap closed"):
        table.add_column(column, overflow="fold")
    for number, state in enumerate(states):
        summary = state["summary"] or {}
        arms = summary.get("arms", {})
        arm = arms.get("student") or arms.get("alone")
        closed = (summary.get("gap_closed") or {}).get("best")
        failure = (
            f"failed: {state['error']['type']}" if state["status"] == "failed" and state["error"] else state["status"]
        )
        table.add_row(
            str(number), " ".join(state["overrides"]), failure, cell(arm["best"]) if arm else "n/a", share(closed)
        )
    Console().print(table)
