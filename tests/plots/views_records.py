"""A run of strategy=cross_window as kdrun leaves it on disk, made in milliseconds: invented figures, the real summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracking.support import begin, make_job

from kdrun.job.summary import summarise
from kdrun.parts import parts_of
from kdrun.tracking.registry import RunInfo, read_run

VIEWS = ("lung", "bone", "zero")
BEST = "bone"
ARMS = {"student": "student small, distilled", "alone": "views alone (before)", "equal_compute": "views, trained on"}
STARTS = {"student": 0.04, "alone": 0.0, "equal_compute": 0.01}
"""Arm -> what its views gain over the first training."""
RESAMPLED = {
    "auc": {"mean": 0.03, "interval": [0.01, 0.05], "p_value": 0.0005, "samples": 90, "draws": 2000},
    "auc/bone": {"mean": 0.0, "interval": [0.0, 0.0], "p_value": 1.0, "samples": 90, "draws": 2000},
    "auc/combined": {
        "mean": -0.002, "interval": [-0.01, 0.006], "p_value": 0.4, "samples": 90, "draws": 2000,
        "delong": [{"p_value": 0.25}, {"p_value": None}],
    },
    "auc/lung": {
        "mean": 0.03, "interval": [0.01, 0.05], "p_value": 0.002, "samples": 90, "draws": 2000,
        "delong": [{"p_value": 0.0001}, {"p_value": 0.031}],
    },
}  # fmt: skip


def auc(view: str, seed: int, more: float = 0.0) -> float:
    return {"lung": 0.7, "bone": 0.8, "zero": 0.75}[view] + 0.01 * seed + more


def entry(role: str, seed: int, metrics: dict[str, float], seconds: float, **more: Any) -> dict[str, Any]:
    best = {"best": metrics, "last": metrics}
    return {
        "label": f"{role}/seed={seed}",
        "role": role,
        "seed": seed,
        "learner": "small",
        "fingerprint": f"{role}{seed}".encode().hex().ljust(64, "0"),
        "source": "trained",
        "parameters": 1000,
        "flops": 2000,
        "further": {},
        "cost": {"seconds": seconds, "training_seconds": seconds},
        "val": {**best, "epoch_best": 1, "epochs": 2},
        "test": best,
        "teacher": None,
        **more,
    }


def make_views_run(outputs: Path, seeds: int = 2, views: tuple[str, ...] = VIEWS) -> RunInfo:
    """Two epochs of each network: AUC one percent below the last in the first. Trainings take 10 s, the second ones 4 s."""
    run = begin(outputs, make_job("ef" * 32, tuple(range(seeds))))
    stages: list[dict[str, Any]] = []
    arms: dict[str, dict[int, Any]] = {arm: {} for arm in ARMS}
    decisions = []
    for seed in range(seeds):

        def fit(role: str, view: str, more: float, seconds: float, seed: int = seed) -> dict[str, Any]:
            value = auc(view, seed, more)
            found = entry(
                role, seed, {"auc": value, "calibration": 0.1}, seconds, further={"elsewhere": {"auc": value}}
            )
            for epoch in range(2):
                scores = {"val/auc": value - 0.01 * (1 - epoch), "train/loss": 1.0 - 0.1 * epoch, "train/ce": 0.5}
                run.metrics.write(found["label"], 10 * (epoch + 1), epoch, scores)
            stages.append(found)
            return found

        before = {view: fit(f"before_{view}", view, 0.0, 10.0) for view in views}
        decisions.append({
            "what": "best view", "chosen": BEST, "metric": "auc", "split": "val", "seed": seed,
            "values": {view: auc(view, seed) for view in views},
        })  # fmt: skip
        counted = [view for view in views if view != BEST]
        for arm, more in STARTS.items():
            members = dict(before)
            if arm != "alone":
                members |= {view: fit(f"{arm}_{view}", view, more, 4.0) for view in counted}
            values = {f"auc/{view}": one["test"]["best"]["auc"] for view, one in members.items()}
            metrics = {
                "auc": sum(values[f"auc/{view}"] for view in counted) / len(counted), **values, "auc/combined": 0.9,
                "calibration": 0.1, "sensitivity": 0.6, "specificity": 0.5,
                "sensitivity/combined": 0.65, "specificity/combined": 0.55,
            }  # fmt: skip
            together = entry(
                arm, seed, metrics, 0.01, further={"elsewhere": {"auc": 0.55, **values}},
                members={view: one["fingerprint"] for view, one in members.items()}, counted=counted,
            )  # fmt: skip
            del together["cost"]["training_seconds"]
            together["val"] |= {"epoch_best": None, "epochs": 0}
            stages.append(together)
            arms[arm][seed] = together
    teachers = {seed: stages[1] for seed in range(seeds)}
    for of_seeds in arms.values():
        for stage in of_seeds.values():
            stage["results"] = parts_of(stage, stages)
    summary = summarise("auc", arms, ARMS, teachers, list(range(seeds)), {}, decisions, "equal_compute")
    for of_seeds in arms.values():
        for stage in of_seeds.values():
            del stage["results"]
    summary["differences"]["equal_compute"]["resampled"] = RESAMPLED
    run.finish(summary=summary, stages=stages, choices={"strategy": "cross_window"})
    run.close()
    return read_run(run.dir)
