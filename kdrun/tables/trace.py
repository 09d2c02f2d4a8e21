"""From a cell of a stored table to what is behind it: runs, seeds, commit, config, data, teacher, cost, files."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdrun.files import number
from kdrun.measures import measure
from kdrun.present.units import MISSING, duration
from kdrun.problems import UserError, closest, listed
from kdrun.records import arms_of, figure_of, own_arm
from kdrun.tables import metrics
from kdrun.tables.build import stage_folder
from kdrun.tables.metric_names import DIFFERENCES, OVER_SAMPLES, WHICH
from kdrun.tables.metrics import Record, main_metric, main_score, stages_of, teachers
from kdrun.tables.render import commit_text, plain, printed_cell, published_text
from kdrun.tables.verify import record_of
from kdrun.tracking.registry import runs_folder


def find_cell(table: Record, row: str, column: str) -> dict[str, Any]:
    """The cell meant by two ids, compared without case. UserError with the nearest ids otherwise."""
    name, chosen = table["name"], []
    for kind, wanted, entries in (("row", row, table["rows"]), ("column", column, table["columns"])):
        ids = {entry["id"].lower(): entry["id"] for entry in entries}
        if wanted.lower() not in ids:
            raise UserError(
                f"table {name} has no {kind} '{wanted}'{closest(wanted, ids.values())}",
                f"{kind}s: {listed(ids.values())}",
            )
        chosen.append(ids[wanted.lower()])
    return next(cell for cell in table["cells"] if [cell["row"], cell["column"]] == chosen)


def trace(table: Record, cell: dict[str, Any], outputs: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything about one cell in JSON types. What needs the record is None where the record is not here."""
    column = next(column for column in table["columns"] if column["id"] == cell["column"])
    job = next(job for job in table["jobs"] if job["row"] == cell["row"] and cell["column"] in job["columns"])
    record = record_of(job, outputs)
    printed = plain(printed_cell(cell, column["which"]))
    found: dict[str, Any] = {
        "cell": f"{table['name']}:{cell['row']}:{cell['column']}",
        "printed": printed,
        "published": published_text(cell) or None,
        **{key: cell[key] for key in ("arm", "metric", "values", "n", "of", "missing")},
        "run": record["id"] if record else job["run"],
        "here": record is not None,
        "status": record["status"] if record else job["status"],
        **{key: job[key] for key in ("job_hash", "overrides", "commit", "dirty", "data")},
        "seeds": None,
        "teachers": [{"fingerprint": key, **value} for key, value in job["teachers"].items()],
        "hardware": None,
        "stages": None,
        "seconds": job["seconds"],
        "shared_seconds": None,
        "folder": None,
        "again": [f"kdrun rerun {record['id']}"] if record else [],
    }
    if record is not None:
        found |= _of_record(table, record, cell, outputs)
    found["again"].append(shlex.join(["kdrun", *job["overrides"]]))
    return found


def _of_record(table: Record, record: Record, cell: dict[str, Any], outputs: str | os.PathLike[str]) -> dict[str, Any]:
    others = [record_of(job, outputs) for job in table["jobs"] if job["run"] != record["id"]]
    elsewhere = {stage["fingerprint"] for other in others if other for stage in other["stages"]}
    arm = own_arm(record) if cell["arm"] not in arms_of(record) else cell["arm"]
    if cell["metric"] in (*DIFFERENCES, "gap_closed"):
        arm = own_arm(record)
    stages = [_stage(stage, stage["fingerprint"] in elsewhere, outputs) for stage in record["stages"]]
    shared = [stage["seconds"] for stage in stages if stage["shared"] and stage["seconds"] is not None]
    keys = ("system", "cpu", "cores", "device", "devices", "precision", "threads")
    return {
        "created": record["created"],
        "seeds": teacher_values(record) if cell["arm"] == "teacher" else seed_values(record, arm, cell),
        "hardware": {key: (record["hardware"] or {}).get(key) for key in keys},
        "versions": record["versions"],
        "stages": stages,
        "seconds": sum(stage["seconds"] or 0.0 for stage in stages),
        "shared_seconds": sum(shared),
        "folder": str(runs_folder(outputs) / record["id"]),
    }


def seed_values(record: Record, arm: str, cell: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each seed of the job: its values and selected epoch, or why there are none."""
    by_seed, missing = stages_of(record, arm), cell["missing"] or metrics.missing_seeds(record, arm)
    controls = stages_of(record, cell["arm"]) if cell["metric"] in DIFFERENCES else {}
    scored = (record["summary"] or {}).get("metric", "accuracy")
    found = []
    for seed in map(str, record["seeds"]):
        if seed in missing:
            found.append({"seed": seed, **missing[seed]})
            continue
        stage = by_seed.get(seed) or {"test": {}, "val": {}}
        name = OVER_SAMPLES.get(cell["metric"], cell["metric"])
        name = name if name in (stage["test"].get("best") or {}) else scored
        values = {which: figure_of(stage, name, which=which) for which in WHICH}
        entry = {"seed": seed, "status": "done", "metric": name, **values, "epoch_best": stage["val"].get("epoch_best")}
        if control := controls.get(seed):
            entry["control"] = {which: figure_of(control, name, which=which) for which in WHICH}
        found.append(entry)
    return found


def teacher_values(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "seed": str(stage["seed"]),
            "status": "done",
            "metric": main_metric(record, stage),
            **{which: main_score(record, stage, which) for which in WHICH},
            "epoch_best": stage["val"].get("epoch_best"),
        }
        for stage in teachers(record).values()
    ]


def _stage(stage: Record, shared: bool, outputs: str | os.PathLike[str]) -> dict[str, Any]:
    folder = stage_folder(stage, outputs)
    return {
        **{key: stage[key] for key in ("label", "learner", "fingerprint", "source")},
        "seconds": number(stage["cost"].get("seconds")),
        "shared": shared,
        "folder": str(folder) if folder else None,
    }


def lines_of(found: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """(label, text) of the page that `kdrun why` prints."""
    gone = "" if found["here"] else " (its record is not here)"
    n = f"n = {found['n']} of {found['of']} seeds" if found["of"] else "no meaning here"
    what = f"student minus {found['arm']}" if found["metric"] in DIFFERENCES else f"{found['metric']} of {found['arm']}"
    lines = [("cell", found["cell"]), ("value", f"{found['printed']}   {what}, {n}")]
    if found["published"]:
        lines.append(("published", found["published"]))
    for entry in found["seeds"] or []:
        if "best" in entry:
            lines.append((f"seed {entry['seed']}", _seed_text(entry)))
        else:
            reason = f": {entry['type']}: {entry['message']}" if entry["type"] else ""
            lines.append((f"seed {entry['seed']}", f"no result, {entry['status'] or 'no reason recorded'}{reason}"))
    if not found["seeds"]:
        lines += [(f"seed {s}", f"no result, {reason['status']}") for s, reason in found["missing"].items()]
    lines += [
        ("run", f"{found['run'] or MISSING}, {found['status']}{gone}"),
        ("commit", commit_text(found)),
        ("config", f"hash {found['job_hash']}"),
        ("overrides", " ".join(found["overrides"])),
        ("data", f"{found['data']['name'] or 'n/a'}, sha256 {found['data']['content'] or 'n/a'}"),
    ]
    for teacher in found["teachers"]:
        metric = teacher.get("metric", "accuracy")
        best, last = (measure(metric).figure(teacher[which]) for which in WHICH)
        scores = f"test {metric} {best} ({last})"
        lines.append(("teacher", f"{teacher['learner']} {teacher['fingerprint']}, {scores}"))
    if found["hardware"]:
        lines.append(("hardware", ", ".join(f"{key} {value}" for key, value in found["hardware"].items() if value)))
    for stage in found["stages"] or []:
        shared = ", shared with other jobs of the table" if stage["shared"] else ""
        lines.append(("stage", f"{stage['label']} {stage['learner']}: {duration(stage['seconds'])}{shared}"))
    if found["seconds"] is not None:
        shared = f", of which shared {duration(found['shared_seconds'])}" if found["shared_seconds"] else ""
        lines.append(("cost", f"{duration(found['seconds'])}{shared}"))
    folders = [found["folder"], *dict.fromkeys(str(Path(s["folder"])) for s in found["stages"] or [] if s["folder"])]
    lines += [("files", folder) for folder in folders if folder]
    return [*lines, *(("again", command) for command in found["again"])]


def _seed_text(entry: dict[str, Any]) -> str:
    epoch = "" if entry["epoch_best"] is None else f", selected epoch {entry['epoch_best'] + 1}"
    control = f"; control {_pair(entry['control'])}" if "control" in entry else ""
    return f"{entry['metric']} {_pair(entry)}{epoch}{control}"


def _pair(values: dict[str, Any]) -> str:
    return ", ".join(f"{which} {'n/a' if values[which] is None else f'{values[which]:.6g}'}" for which in WHICH)
