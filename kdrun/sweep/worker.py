"""One frozen job in this process: what the fork server's children, a launcher's workers and a cluster's jobs all call."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_frozen(
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
    tell: Callable[[dict[str, Any]], None] | None = None,
    max_threads: int | None = None,
    quiet: bool = True,
    jobs: int = 1,
) -> int:
    """Run the job whose config lies frozen in `folder` (see sweep.plan.freeze_point), and return its exit code.

    tell         called with events ({"kind": "stage" | "progress" | "epoch" | "note" | "mirror", ...}); then nothing is
                 printed, and the run's log ends with the traceback of a failure
    max_threads  upper limit of hardware.threads, where several jobs share the cores
    jobs         stages at a time
    """
    from kdrun.run import run_job
    from kdrun.tracking.jobs import job_from_record
    from kdrun.tracking.provenance import Provenance
    from kdrun.tracking.record import read_record

    folder = Path(folder).resolve()
    record = read_record(folder)
    job = job_from_record(record, folder.parent.parent)
    provenance = Provenance(record["command"] or "kdrun", record["git"], record["versions"])
    where = {"provenance": provenance, "folder": folder, "tell": tell, "max_threads": max_threads, "jobs": str(jobs)}
    return run_job(job, quiet=quiet, force=force, **where)


def run_forked(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> int:
    """The same for a request of sweep.pool.Pool."""
    options = {"force": request["force"], "max_threads": request["threads"], "jobs": request["shares"]}
    return run_frozen(request["folder"], tell=tell, **options)
