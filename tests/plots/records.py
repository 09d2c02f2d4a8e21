"""Runs and sweeps as kdrun leaves them on disk, made in milliseconds: invented curves, the real summary."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tracking.support import begin, make_job

from kdrun.files import write_json
from kdrun.job.summary import summarise
from kdrun.tracking.registry import RunInfo, read_run

SIZES = {"teacher": (75_002, 1_494_272), "student": (4_934, 97_088)}
LABELS = {"alone": "student alone", "student": "student resnet8_w4, distilled"}


def accuracy(kind: str, seed: int, epoch: int, shift: float = 0.0) -> float:
    """A curve that rises and levels off; the student ends above the student alone, by a little less for odd seeds."""
    level = {"teacher": 0.95, "alone": 0.88, "student": 0.92 + shift}[kind] - 0.01 * (seed % 2)
    return level - 0.6 * math.exp(-epoch / 2.0)


def stage(kind: str, seed: int, epochs: int, shift: float) -> dict[str, Any]:
    """A finished stage as the run record lists it."""
    last = {"accuracy": accuracy(kind, seed, epochs - 1, shift), "loss": 0.3}
    parameters, flops = SIZES["teacher" if kind == "teacher" else "student"]
    return {
        "label": f"{kind}/seed={seed}",
        "role": kind,
        "seed": seed,
        "learner": "resnet8" if kind == "teacher" else "resnet8_w4",
        "fingerprint": f"{kind}{seed}{shift if kind == 'student' else ''}".encode().hex().ljust(64, "0"),
        "source": "trained",
        "parameters": parameters,
        "flops": flops,
        "cost": {"seconds": 2.0 + seed, "training_seconds": 1.0 + seed, "flops": {}},
        "val": {"best": last, "last": last, "epoch_best": epochs - 2, "epochs": epochs},
        "test": {"best": last, "last": last},
    }


def make_run(
    outputs: Path,
    job_hash: str = "ab" * 32,
    *,
    seeds: int = 3,
    lost: dict[tuple[str, int], int] | None = None,
    shift: float = 0.0,
    epochs: int = 6,
    **record: Any,
) -> RunInfo:
    """A teacher, a student alone and a distilled student over seeds.

    lost    (arm, seed) -> epochs it had when its loss became NaN
    shift   added to the accuracy of the distilled student
    record  fields of the record to replace
    """
    lost = lost or {}
    run = begin(outputs, make_job(job_hash, tuple(range(seeds))))
    fits = [("teacher", 0), *((kind, seed) for seed in range(seeds) for kind in LABELS)]
    stages, arms = [], {kind: {} for kind in LABELS}
    for kind, seed in fits:
        for epoch in range(lost.get((kind, seed), epochs)):
            losses = {"ce": 2.0 * 0.3**epoch} | ({"kd": 9.0 * 0.5**epoch} if kind == "student" else {})
            weighted = {"kd_weighted": 0.9 * losses["kd"]} if kind == "student" else {}
            values = {"loss": sum(losses.values()), **losses, **weighted, "learning_rate": 0.1}
            run.metrics.write(
                f"{kind}/seed={seed}", 10 * (epoch + 1), epoch, {f"train/{n}": v for n, v in values.items()}
            )
            scores = {"val/accuracy": accuracy(kind, seed, epoch, shift), "val/loss": 1.0}
            run.metrics.write(f"{kind}/seed={seed}", 10 * (epoch + 1), epoch, scores)
        if (kind, seed) not in lost:
            stages.append(stage(kind, seed, epochs, shift))
            if kind in arms:
                arms[kind][seed] = stages[-1]
    errors = {seed: FloatingPointError("the kd term became nan at step 50") for _, seed in lost}
    teachers = {seed: stages[0] for seed in range(seeds)}
    summary = summarise("accuracy", arms, LABELS, teachers, list(range(seeds)), errors)
    found = {"summary": summary, "stages": stages, "audit": AUDIT, **record}
    found.setdefault("versions", {"kdrun": "0.1.0", "torch": "2.13.0"})
    if errors:
        run.update(**found)
        run.fail(next(iter(errors.values())))
    else:
        run.finish(**found)
    run.close()
    return read_run(run.dir)


AUDIT = {
    "samples": {"test": 450, "train": 1347, "val": 201},
    "duplicates": {"test": 0, "train": 3, "val": 0},
    "shared": {"train/test": {"pairs": 2, "samples": 2, "contradictions": 1}},
    "summary": "2 test samples are also in train; repeated: 3 in train",
}


def make_sweep(outputs: Path, runs: list[tuple[list[str], RunInfo | None]], **record: Any) -> Path:
    """sweep.json of these points; a point without a run was never started."""
    folder = outputs / "sweeps" / "temperature-0badcafe"
    folder.mkdir(parents=True, exist_ok=True)
    points = [
        {"number": number, "overrides": overrides, "run": run.id if run else "gone-11111111", "job_hash": "11" * 32}
        for number, (overrides, run) in enumerate(runs)
    ]
    times = {"created": "2026-01-31T12:00:00.000Z", "updated": "2026-01-31T12:00:00.000Z"}
    base = {"schema": 1, "id": folder.name, "kind": "grid", **times, "command": "kdrun -m objective.kd.temperature=1,4"}
    more = {"overrides": [], "hash": "0badcafe", "points": points, "search": None, "git": None, "versions": {}}
    write_json(folder / "sweep.json", {**base, **more, **record})
    return folder
