"""One run of a list, as plain values: what `kdrun runs --json` and `kdrun.runs()` give."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kdrun.parts import headline_epoch
from kdrun.records import arms_of, own_arm
from kdrun.tracking.filters import cast_of
from kdrun.tracking.record import RUNNING, now
from kdrun.tracking.registry import RunInfo


def overview(run: RunInfo) -> dict[str, Any]:
    """What `--json` gives for one run. None = not known; `result` is that of the student (or of the only arm), a mean
    over `n` of its `of` seeds."""
    record = run.record or {}
    summary = record.get("summary") or {}
    arm = arms_of(record).get(own_arm(record)) or {}
    return {
        "id": run.id,
        "path": str(run.dir),
        "status": run.status,
        "problem": run.problem,
        "name": record.get("name"),
        "created": record.get("created"),
        **cast_of(record),
        "overrides": record.get("overrides") or [],
        "seeds": record.get("seeds") or [],
        "metric": summary.get("metric"),
        "result": {which: arm.get(which) for which in ("best", "last")},
        "n": arm.get("n"),
        "of": arm.get("of", arm.get("n")),
        "headline": headline_epoch(summary),
        "gap_closed": (summary.get("gap_closed") or {}).get(headline_epoch(summary)),
        "seconds": seconds_of(record, run.status),
        "error": record.get("error"),
    }


def seconds_of(record: dict[str, Any], status: str) -> float | None:
    """Time in all attempts; of a running one up to now. When a killed attempt ended is not known, nor guessed: None."""
    spans = [[attempt["started"], attempt["ended"]] for attempt in record.get("attempts") or []]
    if spans and status == RUNNING:
        spans[-1][1] = now()
    if not spans or any(end is None for _, end in spans):
        return None
    return round(sum((moment(end) - moment(start)).total_seconds() for start, end in spans), 3)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
