"""A small table with hand-made records: real configs and hashes, invented results, nothing trained."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from kdrun import cli
from kdrun.job.summary import summarise
from kdrun.tables.spec import TableRequest, compose_jobs
from kdrun.tables.table_file import find_table, read_spec
from kdrun.tracking.provenance import Provenance, write_start
from kdrun.tracking.record import Run
from kdrun.tracking.registry import open_run

SPEC = """\
# a table of three rows, for tests
title: "Temperature & weight: 50 % of a_table"
note: Nothing here was trained.
plan: Two rows are compared.
base: [data=digits, teacher=mlp_64, student=mlp_8, trainer.epochs=2, tracker=none, hardware=cpu]
seeds: 3
vary: [student]
rows:
  - {id: alone, label: student alone, overrides: [strategy=alone]}
  - {id: t2, label: "T = 2", overrides: [objective.kd.temperature=2]}
  - {id: t4, label: "T = 4", overrides: [objective.kd.temperature=4]}
columns:
  - {id: student, label: "student, %", bold: true}
  - {id: alone, label: "alone, %", arm: alone, which: best}
  - {id: difference, label: difference, metric: difference, which: best}
  - {id: gap, label: gap, metric: gap_closed, which: last}
  - {id: loss, label: loss, metric: loss, which: last}
  - {id: teacher, label: teacher, arm: teacher, which: best}
  - {id: seconds, label: seconds, metric: seconds}
  - {id: size, label: parameters, metric: parameters}
factors: [strategy, objective.kd.temperature]
controls: [alone]
"""
PUBLISHED = """\
published:
  source: "Somebody & others: A_paper"
  citation: arXiv 0000.00000
  epoch: last
  figures:
    t4: {student: 90.5, alone: 88.0}
"""
GIT = {"kdrun": {"commit": "c0ffee" * 6 + "c0ff", "dirty": False, "untracked": 0, "diff_sha256": None}}
RESULTS = {
    "alone": {"alone": [0.80, 0.82, 0.84]},
    "t2": {"student": [0.83, 0.84, 0.88], "alone": [0.80, 0.82, 0.84]},
    "t4": {"student": [0.86, 0.85, 0.90], "alone": [0.80, 0.82, 0.84]},
}
"""row -> arm -> test accuracy of the best epoch, seed by seed (None: the seed diverged)."""


def write_spec(folder: Path, text: str = SPEC, name: str = "mini") -> Path:
    """A --conf folder with this table."""
    path = folder / "conf" / "table" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder / "conf"


def request_of(folder: Path, text: str = SPEC, name: str = "mini") -> TableRequest:
    conf = str(write_spec(folder, text, name))
    return TableRequest(read_spec(find_table(name, [conf])), [], str(folder / "out"), [conf])


def fill(folder: Path, text: str = SPEC, results: dict[str, Any] = RESULTS, name: str = "mini", **fields: Any) -> Path:
    """Write the table and a finished run for each of its jobs; returns the outputs folder. fields: of every record."""
    request = request_of(folder, text, name)
    jobs, composed = compose_jobs(request, request.conf)
    for job, found in zip(jobs, composed, strict=True):
        finish(folder / "out", found, results[job.row], **fields)
    return folder / "out"


def finish(outputs: Path, job: Any, arms: dict[str, list[float | None]], teacher: float = 0.95, **fields: Any) -> Run:
    """A run of `job` with these results. Same config, same teacher: its fingerprint comes from its config."""
    seeds = [cell["seed"] for cell in job.cells]
    run = open_run(outputs, job.config["name"], job.hash)
    write_start(
        run, job, Provenance("kdrun table mini", GIT, {"kdrun": "0.1.0", "torch": "2.13.0", "python": "3.11.7"})
    )
    stages, records, errors = [], {}, {}
    taught = stage("teacher", 0, teacher, job.config["teacher"], size=4810)
    if "student" in arms:
        stages.append(taught)
    for arm, values in arms.items():
        for seed, value in zip(seeds, values, strict=True):
            if value is None:
                errors[seed] = FloatingPointError("the loss is nan")
                continue
            own = job.config["objective"] if arm == "student" else "labels"
            entry = stage(arm, seed, value, [job.config["student"], own])
            stages.append(entry)
            records.setdefault(arm, {})[seed] = entry
    labels = {arm: arm for arm in arms}
    summary = summarise(
        "accuracy", records, labels, dict.fromkeys(seeds, taught) if "student" in arms else {}, seeds, errors
    )
    status = "diverged" if errors else "done"
    fields.setdefault("hardware", {"cpu": "a cpu", "cores": 2, "device": "cpu", "precision": "fp32"})
    run.finish(**{"status": status, "summary": summary | {"seconds": 6.5}, "stages": stages, **fields})
    run.close()
    return run


def stage(role: str, seed: int, value: float, identity: Any, size: int = 610) -> dict[str, Any]:
    """An entry of a record's stages; the last epoch is a point below the best, validation two above test."""
    fingerprint = hashlib.sha256(repr((role == "teacher", seed, identity)).encode()).hexdigest()

    def scores(accuracy: float) -> dict[str, float]:
        top5 = min(1.0, accuracy + 0.05)
        return {"accuracy": accuracy, "top5": top5, "worst_class": 0.5, "loss": 1 - accuracy, "calibration": 0.1}

    return {
        "label": f"{role}/seed={seed}",
        "role": role,
        "learner": "mlp_64" if role == "teacher" else "mlp_8",
        "fingerprint": fingerprint,
        "seed": seed,
        "source": "trained",
        "path": f"/nowhere/{fingerprint}",
        "val": {"best": scores(value + 0.02), "last": scores(value + 0.01), "epoch_best": 0, "epochs": 2},
        "test": {"best": scores(value), "last": scores(value - 0.01)},
        "cost": {"seconds": 1.5 + seed, "cpu_seconds": 1.25},
        "parameters": size,
        "flops": 2 * size,
        "teacher": None,
        "first_step": None,
    }


def kdrun(folder: Path, *words: str, made: Path | None = None) -> int:
    """`kdrun WORDS` on the outputs of `folder`, with its table files or those of `made`."""
    own = folder / "conf"
    given = ["--conf", str(own if own.exists() else made)] if words[0] == "table" else []
    return cli.main([*words, *given, "--outputs", str(folder / "out")])


def copied(made: Path, folder: Path) -> Path:
    """A folder with the outputs of another one, to be altered. Its conf stays where it is: composing it anew is slow."""
    shutil.copytree(made / "out", folder / "out")
    return folder
