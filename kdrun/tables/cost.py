"""What a table needs and this machine lacks, and an estimate of its cost that needs neither."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from kdrun import kinds
from kdrun.problems import UserError

IMAGES = 16
"""In the step that is measured; its time is taken to grow with their number."""


def lacking(requires: dict[str, Any], jobs: Sequence[Any]) -> list[str]:
    """One line for everything that is not here. jobs: composed ones (kdrun.config.compose.Job)."""
    lines: dict[str, None] = {}
    for job in _distinct(jobs, "data") if requires.get("data") else []:
        from kdrun.domains.load import content_hash

        try:
            content_hash(job.config["data"], job.config["paths"])
        except UserError as error:
            lines |= dict.fromkeys(error.lines)
    device = requires.get("device")
    if device not in (None, "cpu"):
        from kdrun.learning.device import resolve

        hardware = jobs[0].config["hardware"]
        try:
            if resolve({**hardware, "device": device})["device"] != device:
                lines[f"a {device} device"] = None
        except UserError as error:
            lines |= dict.fromkeys(error.lines)
    if lines and requires.get("note"):
        lines[requires["note"]] = None
    return list(lines)


def _distinct(jobs: Sequence[Any], key: str) -> list[Any]:
    return list({json.dumps(job.config[key], sort_keys=True): job for job in jobs}.values())


def estimate(requires: dict[str, Any], jobs: Sequence[Any]) -> dict[str, Any] | None:
    """{"stages", "steps", "flops", "seconds"} of all distinct stages, from one step of each on a few random images of the
    shape that `requires` states; None where it states none. seconds are those of one thread of this CPU.
    """
    if "shape" not in requires:
        return None
    from kdrun.job.cells import fit_cells
    from kdrun.lab.dry import DryLab
    from kdrun.lab.fingerprint import FingerprintContext
    from kdrun.lab.store import Store
    from kdrun.learning.device import apply_threads, resolve
    from kdrun.learning.report import Report
    from kdrun.learning.teaching import Workshop

    hardware = resolve({**jobs[0].config["hardware"], "device": "cpu", "precision": "fp32"})
    apply_threads(hardware)
    from kdrun.learning.probe import probe

    paths = jobs[0].config["paths"]
    module = kinds.find(requires.get("task", "classification")).stand_in(requires, IMAGES)
    store = Store(paths["store"])
    workshop = Workshop(lambda data: module, store.root / "outputs", store.lock)
    lab = DryLab(
        store, FingerprintContext(lambda data: "not here", "cpu"), workshop, paths, Report(), lambda item: None
    )
    for job in jobs:
        fit_cells([{**cell, "hardware": hardware} for cell in job.cells], lab)
    known: dict[str, dict[str, Any]] = {}
    total: dict[str, Any] = {"stages": len(lab.planned), "steps": 0, "flops": 0, "seconds": 0.0}
    for planned in lab.planned:
        stage = planned.result.stage
        if stage.trainer is None or stage.objective is None:
            continue
        kind = json.dumps([stage.learner, stage.objective, stage.trainer], sort_keys=True)
        if kind not in known:
            known[kind] = probe(stage, module)
        found = known[kind]
        epochs, batch = stage.trainer["epochs"], stage.trainer["batch_size"]
        steps = epochs * math.ceil(requires["train"] / batch)
        taught = (found["teacher_flops"] or 0) if stage.teacher is not None else 0
        total["steps"] += steps
        total["flops"] += epochs * requires["train"] * (3 * (found["flops"] or 0) + taught)
        total["seconds"] += steps * (found["step_seconds"] or 0.0) * batch / min(batch, IMAGES)
    return total
