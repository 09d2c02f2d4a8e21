"""kdrun [overrides]: run one job; with -m, one job per combination of comma-separated values, or a search."""

from __future__ import annotations

import sys
from typing import Any

from kdrun.problems import UserError

FIRST = "experiment=transfer"
"""What is run where nothing is typed: a setting in which distillation has an effect that few seeds can show."""


def main(args) -> int:
    from kdrun.job.compose import compose
    from kdrun.strategies.unused import refuse_unused

    if not args.multirun:
        from kdrun.run import run_job

        if not (args.overrides or args.conf_dirs):
            args.overrides = [FIRST]
            if not args.json:
                print(f"nothing typed: kdrun {FIRST}", file=sys.stderr)
        job = compose(args.overrides, args.conf_dirs)
        refuse_unused([job])
        return run_job(job, quiet=args.quiet, force=args.force, json=args.json, jobs=args.options.get("jobs"))
    return sweep(args)


def sweep(args) -> int:
    """Plan and freeze all jobs first, then run them; what is done is not run again. Exit codes: see sweep.execute."""
    from kdrun.config.overrides import without_engine

    engine = without_engine(args.overrides)
    from kdrun.processes.pool import jobs_of
    from kdrun.sweep.execute import execute

    jobs = jobs_of(args.options.get("jobs", "1"))
    how = {"retry": args.retry, "force": args.force, "quiet": args.quiet, "json": args.json}
    if engine.sweeper == "optuna":
        from kdrun.sweep.search import search

        if engine.launcher:
            raise UserError(f"hydra/launcher={engine.launcher}: a search runs on this machine; use jobs=N")
        return search(args.overrides, args.conf_dirs, jobs=jobs, command_arguments=sys.argv[1:], **how)
    if engine.launcher:
        from kdrun.sweep.launchers import check

        if "jobs" in args.options:
            raise UserError(
                f"jobs={args.options['jobs']}: the launcher {engine.launcher} decides how many run at a time"
            )
        check(engine.launcher, engine.settings)
        plan = grid(engine.words, args.conf_dirs, arguments=sys.argv[1:], elsewhere=True)
        return execute(plan, launcher=engine.launcher, settings=engine.settings, **how)
    from kdrun.sweep.pool import Pool

    with Pool(jobs) as pool:  # it imports while the jobs are planned
        return execute(grid(engine.words, args.conf_dirs, arguments=sys.argv[1:]), pool=pool, **how)


def grid(words: list[str], conf_dirs: list[str], **how: Any):
    """The plan of a multirun, with a bar while it is made where that takes long enough to be seen.

    how: as of sweep.plan.make_plan."""
    from kdrun.config.compose import split_sweep
    from kdrun.sweep.plan import make_plan

    points = split_sweep(words, conf_dirs)
    if not sys.stderr.isatty():
        return make_plan(points, conf_dirs, **how)
    from rich.progress import Progress

    from kdrun.present.console import Console

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"planning {len(points)} jobs", total=2 * len(points))
        update = lambda done, total: progress.update(task, completed=done)  # noqa: E731
        return make_plan(points, conf_dirs, **how, progress=update)
