"""Jobs of a sweep in clean processes (processes/pool.py)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from kdrun.processes.pool import ProcessPool, why_ended
from kdrun.tracking.record import FAILED, INTERRUPTED, OUT_OF_MEMORY, RUNNING, read_record
from kdrun.tracking.registry import end_run, read_run


class Pool(ProcessPool):
    """Runs frozen jobs, `jobs` at a time. "end" events carry the record's status and error."""

    def submit(self, number: int, folder: Path, force: bool = False, jobs: int = 1, devices: int = 1) -> None:
        """Queue the job that lies frozen in `folder`; it starts when a slot is free. jobs: of its own stages at a time, each with so
        many GPUs."""
        place = os.path.abspath(folder)
        request = {"folder": place, "force": force, "shares": jobs, "devices": devices}
        self.start(number, "kdrun.sweep.worker:run_forked", folder / "run.log", **request)

    def _ended(self, event: dict[str, Any], request: dict[str, Any]) -> None:
        """A job that could not write its end gets it written here."""
        folder = Path(request["folder"])
        if read_record(folder)["status"] == RUNNING or event["code"] < 0:
            record_death(folder, event["code"], event["memory"])
        info = read_run(folder)
        event |= {"status": info.status, "error": (info.record or {}).get("error")}


def record_death(run: Path, code: int, memory: bool) -> None:
    """Write how a job ended that could not write it itself. A crash would come again; a kill from outside would not.

    code: as of subprocess, negative for a signal; memory: whether the system killed processes for want of it meanwhile.
    """
    memory = memory and code == -signal.SIGKILL
    crashed = code in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)
    status = OUT_OF_MEMORY if memory else FAILED if crashed or code > 0 else INTERRUPTED
    end_run(run, status, {"type": "Killed" if code < 0 else "Exit", "message": why_ended(code, memory), "where": ""})
