"""One frozen job in this process: what the fork server's children, a launcher's workers and a cluster's jobs all call."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WATCH_SECONDS = 0.5


def run_frozen(
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
    tell: Callable[[dict[str, Any]], None] | None = None,
    max_threads: int | None = None,
    quiet: bool = True,
) -> int:
    """Run the job whose config lies frozen in `folder` (see sweep.plan.freeze_point), and return its exit code.

    tell         called with events ({"kind": "stage" | "progress" | "epoch" | "note" | "mirror", ...}); then nothing is
                 printed, and the run's log ends with the traceback of a failure
    max_threads  upper limit of hardware.threads, where several jobs share the cores
    """
    from kdrun.run import run_job
    from kdrun.tracking.jobs import job_from_record
    from kdrun.tracking.provenance import Provenance
    from kdrun.tracking.record import read_record

    folder = Path(folder).resolve()
    record = read_record(folder)
    job = job_from_record(record, folder.parent.parent)
    provenance = Provenance(record["command"] or "kdrun", record["git"], record["versions"])
    return run_job(
        job, quiet=quiet, force=force, provenance=provenance, folder=folder, tell=tell, max_threads=max_threads
    )


def end_with(parent: int) -> None:
    """Stop this process, its state saved, when `parent` is gone: whoever could have asked for that no longer can."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
