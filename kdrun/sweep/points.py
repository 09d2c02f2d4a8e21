"""One job of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.tracking.record import PLANNED
from kdrun.tracking.registry import run_of_job

NEW, DONE, RUNNING, INTERRUPTED = "new", "done", "running", "interrupted"
STORED, TO_FIT, NO_TEACHER, UNKNOWN = "stored", "to fit", "-", "unknown"


@dataclass
class Point:
    """One job of a sweep.

    status   new, or that of its run (see tracking.record.STATUSES; planned counts as new)
    teacher  where its teacher and the outputs of it come from: "stored", "to fit", "as N" (with job N), "-" (none), "unknown"
    """

    number: int
    overrides: list[str]
    job: Any
    status: str = NEW
    run_id: str | None = None
    folder: Path | None = None
    teacher: str = UNKNOWN
    error: dict[str, Any] | None = None

    def look(self) -> None:
        """Read run and status from the disk."""
        info = run_of_job(self.job.config["paths"]["outputs"], self.job.hash)
        if info is not None:
            self.run_id, self.folder = info.id, info.dir
            self.status = NEW if info.status == PLANNED else info.status
            self.error = (info.record or {}).get("error")

    @property
    def record(self) -> dict[str, Any]:
        from kdrun.tracking.registry import read_run

        return (read_run(self.folder).record if self.folder else None) or {}
