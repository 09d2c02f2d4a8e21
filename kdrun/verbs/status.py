"""kdrun status: what runs now, what was interrupted or failed and how to go on, how far sweeps are, how much disk is left."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdrun.files import dump_json
from kdrun.present.results import reason_text
from kdrun.present.units import MISSING, duration, size_text
from kdrun.tracking.filters import BROKEN
from kdrun.tracking.overview import moment
from kdrun.tracking.record import DONE, FAILURES, INTERRUPTED, METRICS, PLANNED, PRUNED, RUNNING
from kdrun.tracking.registry import RunInfo, list_runs
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder, print_table, take_no

MOST = 20
"""Lines of one kind that fit a screen; --json has all."""
TAIL = 65536
MISSING_RUN = "missing"
"""A point of a sweep whose run folder is gone."""


def main(args: Arguments) -> int:
    """Print what is going on, or with --json the same as one object. Always 0."""
    take_no(args)
    outputs = outputs_folder(args)
    runs = list_runs(outputs)
    view = {
        "running": [running(run) for run in runs if run.status == RUNNING],
        "stopped": [stopped(run) for run in unsettled(runs)],
        "planned": [run.id for run in runs if run.status == PLANNED],
        "sweeps": sweeps(outputs, runs),
        "store": store(outputs),
    }
    print(dump_json(view)) if args.json else _tell(view)
    return 0


def running(run: RunInfo) -> dict[str, Any]:
    """How far a run is. `finished`: the stage of the last row has ended, and the next one has not written any."""
    record, row = run.record or {}, last_row(run.dir / METRICS)
    attempt = record["attempts"][-1]
    names = [name for name in ("val/accuracy", "val/r2", "val/loss", "train/loss") if name in row]
    return {
        "id": run.id,
        "pid": attempt.get("pid"),
        "elapsed": (datetime.now(UTC) - moment(attempt["started"])).total_seconds(),
        "stage": row.get("stage"),
        "step": row.get("step"),
        "epoch": row["epoch"] + 1 if row.get("epoch") is not None else None,
        "epochs": _epochs(record["config"] or {}, row.get("stage") or ""),
        "value": {names[0]: row[names[0]]} if names else {},
        "finished": any(name.startswith("test/") for name in row),
    }


def last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a metrics file, {} if there is none. Reads the end of the file only."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            content = file.read()
        return json.loads(content[: content.rfind(b"\n")].rpartition(b"\n")[2])
    except (OSError, ValueError):
        return {}


def _epochs(config: dict[str, Any], stage: str) -> int | None:
    """Of the learner that this stage fits; None for stages whose length the config does not tell."""
    learner = {"teacher": "teacher", "student": "student", "alone": "student", "plain_kd": "student"}
    node = config.get(learner.get(stage.partition("/")[0], ""))
    if node is None:
        return None
    return (node.get("trainer") or {}).get("epochs") or (config.get("trainer") or {}).get("epochs")


def unsettled(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """Runs that ended without a result, newest first; not those whose job was done later in another folder."""
    done = {(run.record or {})["job_hash"] for run in runs if run.status == DONE}
    ends = (*FAILURES, INTERRUPTED, BROKEN)
    return [run for run in runs if run.status in ends and (run.record or {}).get("job_hash") not in done]


def stopped(run: RunInfo) -> dict[str, Any]:
    """Why a run has no result, and the command that goes on with it."""
    again = f"kdrun rerun {run.id}" if run.record and run.record["config"] else None
    return {"id": run.id, "status": run.status, "reason": reason(run), "command": again}


def reason(run: RunInfo) -> str:
    """One line."""
    record = run.record
    if record is None:
        return run.problem or MISSING
    arms = (record["summary"] or {}).get("arms") or {}
    missing = {seed: why for arm in arms.values() for seed, why in (arm.get("missing") or {}).items()}
    if missing:
        return "; ".join(f"seed {seed}: {reason_text(missing[seed])}" for seed in sorted(missing, key=int))
    if error := record["error"]:
        return "stopped by a signal" if run.status == INTERRUPTED else reason_text(error)
    return "its process was killed" if run.status == INTERRUPTED else MISSING


def sweeps(outputs: Path, runs: Sequence[RunInfo]) -> list[dict[str, Any]]:
    """Sweeps, newest first: how many of their jobs have which status, and the command that goes on (None: nothing to do,
    or it is at work)."""
    from kdrun.tracking.sweeps import list_sweeps

    status = {run.id: run.status for run in runs}
    found = []
    for sweep in list_sweeps(outputs):
        ids = [point["run"] for point in sweep.record["points"]]
        ids += [None] * ((sweep.record.get("search") or {}).get("n_trials", 0) - len(ids))  # trials not asked for yet
        counts = Counter("new" if name is None else status.get(name, MISSING_RUN) for name in ids)
        command = sweep.record["command"]
        if counts[RUNNING] or _is_over(counts):
            command = None
        elif not any(counts[name] for name in ("new", PLANNED, INTERRUPTED, MISSING_RUN)):
            command = f"{command} --retry" if any(counts[name] for name in FAILURES) else None
        found.append(
            {"id": sweep.id, "kind": sweep.record["kind"], "jobs": len(ids), "counts": dict(counts), "command": command}
        )
    return found


def _is_over(counts: Mapping[str, int]) -> bool:
    """Whether no job is left to run: what a search pruned is not run again."""
    return all(name in (DONE, PRUNED) for name in counts if counts[name])


def store(outputs: Path) -> dict[str, Any]:
    """Size of the store in bytes, its stages, and what is free on its disk."""
    from kdrun.lab.garbage import size_of

    folder = outputs / "store"
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    stages = sum(1 for _ in folder.glob("stages/??/*/manifest.json"))
    return {"path": str(folder), "bytes": size_of(folder), "stages": stages, "free": shutil.disk_usage(there).free}


def _tell(view: dict[str, Any]) -> None:
    if view["running"]:
        print("runs now")
        print_table([_running_row(one) for one in view["running"]], copied=("run",))
    else:
        print("nothing runs now")
    if view["planned"]:
        print(f"planned, not started: {len(view['planned'])}")
    if view["stopped"]:
        print("\nstopped or failed")
        rows = [{"run": one["id"], "status": one["status"], "why": one["reason"], "continue with": one["command"] or MISSING}
                for one in view["stopped"][:MOST]]  # fmt: skip
        print_table(rows, copied=("run", "continue with"))
        if (more := len(view["stopped"]) - MOST) > 0:
            print(f"and {more} more: kdrun runs status=failed,interrupted,{BROKEN}")
    if shown := [one for one in view["sweeps"] if not _is_over(one["counts"])] or view["sweeps"][:1]:
        print("\nsweeps")
        rows = [{"sweep": one["id"], "jobs": _counts_text(one), "continue with": one["command"] or ""} for one in shown]
        print_table(rows[:MOST], copied=("sweep", "continue with"))
        if more := len(view["sweeps"]) - len(rows[:MOST]):
            print(f"and {more} more")
    disk = view["store"]
    print(
        f"\nstore {disk['path']}: {size_text(disk['bytes'])} in {disk['stages']} stages; {size_text(disk['free'])} free"
    )


def _running_row(one: dict[str, Any]) -> dict[str, str]:
    progress = MISSING if one["epoch"] is None else f"epoch {one['epoch']}"
    if one["epoch"] is not None and one["epochs"]:
        progress += f" of {one['epochs']}"
    for name, value in one["value"].items():
        progress += f", {name} {value:.4f}" if isinstance(value, float) else f", {name} {value}"
    return {
        "run": one["id"],
        "stage": one["stage"] or MISSING,
        "progress": "finished, the next stage has started" if one["finished"] else progress,
        "for": duration(one["elapsed"]),
        "pid": str(one["pid"] or MISSING),
    }


def _counts_text(sweep: dict[str, Any]) -> str:
    """`done 3/8, failed 1, running 2`"""
    counts = sweep["counts"]
    others = [f"{name} {counts[name]}" for name in (*FAILURES, RUNNING, PLANNED, "new", INTERRUPTED, PRUNED, MISSING_RUN)
              if counts.get(name)]  # fmt: skip
    return ", ".join([f"done {counts.get(DONE, 0)}/{sweep['jobs']}", *others])
