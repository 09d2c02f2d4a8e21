"""kdrun rerun RUN: run the stored cells of a run again, not what `conf/` says today."""

from __future__ import annotations

import sys
from typing import Any

from kdrun.environment import differing, variables_in
from kdrun.problems import UserError
from kdrun.tracking.provenance import package_versions
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.show import chosen_run
from kdrun.words import is_folder


def main(args: Arguments) -> int:
    """The exit code of the run. An unfinished run is continued in its folder, a finished one gets a new folder."""
    if not args.words:
        raise UserError("which run? all of them: kdrun runs", "the last one: kdrun rerun last")
    if changed := [word for word in args.overrides if not is_folder(word)]:
        raise UserError(
            f"rerun takes the config as it was stored; not possible: {' '.join(changed)}",
            "for a changed run give its overrides again: kdrun show RUN lists the command",
        )
    run = chosen_run(args)
    record = run.known_record()
    if record["config"] is None:
        raise UserError(f"{run.id} ended before its config was stored; there is nothing to run again")
    told = [f"{name} of the environment is not what it was" for name in differing(record["config"])]
    for line in (*version_changes(record), *told):
        print(f"kdrun: {line}", file=sys.stderr)
    from kdrun.config.allowed import keep, names_in
    from kdrun.run import run_job
    from kdrun.tracking.jobs import job_from_record

    job = job_from_record(record, run.dir.resolve().parent.parent)
    keep(
        job.config["paths"]["outputs"],
        dict.fromkeys(names_in(job.config.get("targets")), ""),
        dict.fromkeys(variables_in(job.cells), ""),
    )
    options = {name: getattr(args, name) for name in ("quiet", "force", "json") if hasattr(args, name)}
    return run_job(job, jobs=args.options.get("jobs"), **options)


def version_changes(record: dict[str, Any]) -> list[str]:
    """One line for each package whose version differs from the recorded one: the result may differ too."""
    current = package_versions()
    return [
        f"recorded with {name} {version}, here is {current.get(name)}"
        for name, version in (record["versions"] or {}).items()
        if name in current and version != current[name]
    ]
