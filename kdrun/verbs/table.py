"""kdrun table NAME: plan the jobs of a table, run what is missing, check, build and render it. Without NAME: all tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kdrun.files import dump_json
from kdrun.problems import UserError, each
from kdrun.verbs.arguments import Arguments

FAILED = 1


def main(args: Arguments) -> int:
    """0 built; 1 a check failed and nothing was written, or --check found a difference; 2 a mistake; 3 built, but a job
    failed and is shown as missing; 130 or 143 stopped. A table that cannot run here is planned and explained: 0."""
    from kdrun.tables.spec import TableRequest
    from kdrun.tables.table_file import find_table, read_spec
    from kdrun.verbs.runs import outputs_folder
    from kdrun.words import is_folder

    if len(args.words) > 1:
        raise UserError(f"one table at a time; given: {', '.join(args.words)}")
    given = any(map(is_folder, args.overrides)) or "outputs" in args.options
    outputs = str(outputs_folder(args)) if given else None
    extra = [word for word in args.overrides if not is_folder(word)]
    if not args.words:
        if extra or args.check:
            raise UserError("which table? kdrun table NAME", "all of them: kdrun table")
        return list_tables(args, outputs)
    spec = read_spec(find_table(args.words[0], args.conf_dirs))
    request = TableRequest(spec, extra, outputs, list(args.conf_dirs))
    return check(request, args) if args.check else make(request, args)


def make(request: Any, args: Arguments) -> int:
    """Plan, run, check, build, write, print."""
    from kdrun.tables import build, checks
    from kdrun.tables.spec import compose_jobs

    jobs, composed = compose_jobs(request, args.conf_dirs)
    folder, code = build.table_folder(request.outputs or "outputs", request.name), 0
    # Told before anything is trained; records are held to it once more, as they may be of other words than these.
    if failures := list(
        checks.undeclared([(j.row, c.cells) for j, c in zip(jobs, composed, strict=True)], request.spec.factors)
    ):
        return refuse(request, failures, folder, args)
    if any(record is None or record["status"] != "done" for record in records_of(composed)):
        code = run_missing(request, jobs, composed, args)
        if code is None or code >= 128:
            return code or 0
    entries = build.entries_of(jobs, records_of(composed))
    columns = [column.definition for column in request.spec.columns]
    found = checks.check(entries, columns, request.spec.factors, [cell["seed"] for cell in composed[0].cells])
    if found.failures:
        return refuse(request, found.failures, folder, args)
    table = build.build(request, entries, jobs, [job.hash for job in composed], found)
    table, paths = build.write_table(folder, table)
    if args.json:
        print(dump_json(table))
    elif not args.quiet:
        from kdrun.tables.render import show

        show(table)
        print(f"written: {', '.join(map(str, paths))}")
    return code or int(bool(build.unmet(table["rows"], table["columns"], table["cells"])))


def run_missing(request: Any, jobs: list[Any], composed: list[Any], args: Arguments) -> int | None:
    """Run what is not done; the exit code of that sweep. None where it cannot run here, which is then explained."""
    from kdrun.sweep.plan import make_plan
    from kdrun.tables import cost

    points: dict[str, list[str]] = {}
    for job, found in zip(jobs, composed, strict=True):
        points.setdefault(found.hash, job.overrides)
    words, requires = list(points.values()), request.spec.requires
    if requires and (lines := cost.lacking(requires, composed)):
        plan = make_plan(words, args.conf_dirs, deep=False, **_identity(request, args))
        explain(request, plan, cost.estimate(requires, composed), lines, args)
        return None
    from kdrun.processes.pool import jobs_of
    from kdrun.sweep.execute import execute

    plan = make_plan(words, args.conf_dirs, **_identity(request, args))
    many = jobs_of(args.options.get("jobs", "1"))
    return execute(plan, jobs=many, retry=args.retry, quiet=args.quiet or args.json, results=False)


def _identity(request: Any, args: Arguments) -> dict[str, Any]:
    """What names the sweep of a table, and the command that goes on with it."""
    words = [f"jobs={args.options['jobs']}"] if "jobs" in args.options else []
    given = request.spec.words if request.spec.shipped else ()  # what came with kdrun is nobody's mistake
    return {"kind": "table", "name": request.name, "arguments": [*request.arguments, *words], "unjudged": given}


def records_of(composed: list[Any]) -> list[dict[str, Any] | None]:
    """The record that speaks for each job; None for one that was never begun."""
    from kdrun.tracking.record import PLANNED
    from kdrun.tracking.registry import run_of_job

    runs = [run_of_job(job.config["paths"]["outputs"], job.hash) for job in composed]
    return [
        run.record and {**run.record, "status": run.status} if run and run.status != PLANNED else None for run in runs
    ]


def refuse(request: Any, failures: list[str], folder: Path, args: Arguments) -> int:
    """Say what is wrong. Nothing is written; what an earlier call wrote stays, and is named."""
    if args.json:
        print(dump_json({"name": request.name, "failures": failures}))
    for line in failures:
        print(f"kdrun: {line}", file=sys.stderr)
    earlier = f"; {folder} is from an earlier call" if (folder / "table.json").is_file() else ""
    print(f"kdrun: table {request.name} is not built: {len(failures)} checks failed{earlier}", file=sys.stderr)
    return FAILED


def explain(request: Any, plan: Any, cost: dict[str, Any] | None, lines: list[str], args: Arguments) -> None:
    """The plan of a table that cannot run here, what it would cost and what is missing. Nothing is started."""
    if args.json:
        jobs = [{"overrides": p.overrides, "job_hash": p.job.hash, "status": p.status} for p in plan.points]
        print(dump_json({"name": request.name, "jobs": jobs, "estimate": cost, "missing": lines}))
        return
    from kdrun.present.console import Console
    from kdrun.present.units import duration
    from kdrun.sweep.board import show_plan

    print(request.spec.title)
    show_plan(plan, Console(), set())
    if cost is not None:
        print(
            f"cost, estimated: {cost['stages']} stages, {cost['steps']:,} steps, {cost['flops'] / 1e15:.1f} PFLOPs; "
            f"{duration(cost['seconds'])} on one thread of this CPU"
        )
    print("\n".join(["missing here:", *(f"  {line}" for line in lines), "nothing was started"]))


def check(request: Any, args: Arguments) -> int:
    """The stored table against the records and today's table file."""
    from kdrun.tables.spec import compose_jobs
    from kdrun.tables.verify import lines_of, stored_table, verify

    outputs = request.outputs or "outputs"
    path, table = stored_table(request.name, outputs, committed_first=True)
    jobs, composed = compose_jobs(request, args.conf_dirs)
    hashes = {(job.row, column): c.hash for job, c in zip(jobs, composed, strict=True) for column in job.columns}
    found = verify(path, table, hashes, outputs)
    if args.json:
        print(dump_json({**vars(found), "good": found.good}))
    else:
        print("\n".join(lines_of(found, table["cells"])))
    return 0 if found.good else FAILED


def list_tables(args: Arguments, outputs: str | None) -> int:
    """Name, jobs done of all, title. A table of which no run bears the name is not composed, which takes seconds for a hundred jobs."""
    from kdrun.config.groups import conf_dirs, tables
    from kdrun.job.compose import compose
    from kdrun.tables.spec import TableRequest
    from kdrun.tables.table_file import read_spec
    from kdrun.tracking.registry import finished_run, runs_folder

    views = []
    for name, option in tables(conf_dirs(args.conf_dirs)[0]).items():
        view: dict[str, Any] = {"name": name, "title": option.summary, "done": None, "of": None, "problem": None}
        try:
            spec = read_spec(option)
            listed = TableRequest(spec, [], outputs).jobs()
            first = compose(listed[0].overrides, args.conf_dirs)
            if not any(runs_folder(first.config["paths"]["outputs"]).glob(f"{name}-*")):
                views.append(view | {"title": spec.title, "done": 0, "of": len(listed)})
                continue
            jobs = [first, *(compose(job.overrides, args.conf_dirs) for job in listed[1:])]
            distinct = {job.hash: job.config["paths"]["outputs"] for job in jobs}
            done = sum(finished_run(folder, job_hash) is not None for job_hash, folder in distinct.items())
            view |= {"title": spec.title, "done": done, "of": len(distinct)}
        except UserError as error:
            view["problem"] = each(error)[0][0]
        views.append(view)
    if args.json:
        print(dump_json(views))
        return 0
    from kdrun.present.tables import aligned

    rows = [[v["name"], v["problem"] or f"{v['done']} of {v['of']} jobs done", v["title"]] for v in views]
    print("\n".join(aligned([["table", "status", "title"], *rows])))
    return 0
