"""Look at a teacher before it teaches: what it reaches on validation, and whether its inputs are what it was trained on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from kdrun.data.host import moved
from kdrun.learning.fitness import check_guess, check_stated
from kdrun.learning.request import TaughtBy
from kdrun.learning.teacher import as_seen, renormalisation
from kdrun.networks.inputs import Moments, moments_of, same
from kdrun.networks.modes import evaluating
from kdrun.networks.weights import read_metadata

SAMPLES = 4096
"""Validation samples that are looked at."""
FAR = 0.05
"""Least difference of a score that is called far better; on few samples it is three standard errors of a difference."""


def preflight(frozen: Any, module: Any, task: Any, teacher: TaughtBy, teaching: dict[str, Any]) -> dict[str, Any]:
    """Measure the teacher on validation before it teaches, by the task's PREFLIGHT metric.

    With teaching["unchecked"] (a control with a teacher known to be bad) it is only measured.
    Raises UnfitTeacher when it is more than `tolerance` worse than its own record says, and when it does no better than a guess
    that looks at no input. What the config says of its accuracy is checked by the lab (lab.teachers).
    """
    name, targets, right = task.PREFLIGHT, [], []
    value, seen = measure(frozen.outputs, module, task, next(frozen.network.parameters()).device, targets, right)
    right = None if any(one is None for one in right) else right
    guess, better, stated = task.trivial(targets, right), task.METRICS[name], teacher.stated
    noted = {"metric": name, "better": better, "value": float(guess), "limit": guess.limit, "what": guess.what}
    notes = {name: value, "samples": seen, "stated": stated, "guess": noted}
    if teaching.get("unchecked"):
        return notes
    if stated is not None:
        said = f"{seen} validation samples"
        check_stated(teacher.name, name, value, stated, teaching["tolerance"], said, better)
    check_guess(teacher.name, notes)
    return notes


@torch.no_grad()
def measure(
    outputs: Any,
    module: Any,
    task: Any,
    device: torch.device,
    targets: list | None = None,
    right: list | None = None,
) -> tuple[float, int]:
    """(the PREFLIGHT metric on at most SAMPLES validation samples, how many); outputs(batch) -> Prediction.

    The targets that count are appended to `targets`, and where they are met to `right`.
    """
    metrics, seen = task.metrics().to(device), 0
    for batch in module.eval_loader("val", batch_size=module.preflight_batch):
        batch = moved(batch, device)
        prediction = outputs(batch)
        task.update(metrics, prediction, batch)
        if right is not None:
            right.append(task.right(prediction, batch))
        if targets is not None:
            targets.append(batch["targets"] if batch.get("mask") is None else batch["targets"][batch["mask"]])
        seen += task.size(batch["inputs"])
        if seen >= SAMPLES:
            break
    return float(metrics.compute()[task.PREFLIGHT]), seen


def other_normalisation(learner: dict[str, Any], network: nn.Module, module: Any, task: Any) -> dict[str, Any]:
    """{"otherwise": {"name", "mean", "std", "metric", "value", "given", "samples"}} of weights that were brought, where the
    network does far better under another usual normalisation of such inputs than under that of the data (`given`).

    {} where none is far better, and where the weights file itself says how its inputs were normalised.
    """
    own, usual, brought = moments_of(module.spec), module.spec.usual_normalisations(), learner["weights"] is not None
    if not brought or not usual or moments_of(read_metadata(learner["weights"])) is not None:
        return {}
    device = next(network.parameters()).device

    def scored(moments: Moments | None) -> tuple[float, int]:
        turn = None if moments is None else renormalisation((own["mean"], own["std"]), moments)
        return measure(lambda batch: task.predict(network, as_seen(batch["inputs"], turn)), module, task, device)

    with evaluating(network):
        given, seen = scored(None)
        others = {name: it for name, it in usual.items() if not same(it, own)}
        values = {name: scored(moments)[0] for name, moments in others.items()}
    best = max(values, key=lambda name: values[name] if math.isfinite(values[name]) else -math.inf)
    if not values[best] - given > max(FAR, 3 * math.sqrt(0.5 / seen)):
        return {}
    found = {"name": best, **others[best], "metric": task.PREFLIGHT, "value": values[best], "given": given}
    return {"otherwise": {**found, "samples": seen}}
