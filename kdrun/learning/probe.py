"""One step on real shapes, nothing kept: proof before hours are spent that every term does what it should."""

from __future__ import annotations

import time
from typing import Any

import torch

from kdrun.learning import seeds, topk
from kdrun.learning.firststep import check_first_step
from kdrun.learning.fit import monitored
from kdrun.ledger.flops import parameters
from kdrun.networks.build import build_network
from kdrun.networks.modes import hold_frozen
from kdrun.networks.parts import select_parts
from kdrun.objectives.terms import Objective, build_objective
from kdrun.tasks.build import task_for

IDENTITY_TOLERANCE = 1e-6


class NotZero(RuntimeError):
    """A term that compares student and teacher is not zero when both are the same."""


def probe(stage, module) -> dict[str, Any]:
    """Look at one training step of a stage (lab.stage.Stage) on CPU, with a teacher of random weights if it has one.

    Returns {"terms": {name: {"value", "gradient", "identity"}}, "trainable", "parameters", "flops", "teacher_flops",
    "step_seconds", "steps"}; identity is the term's value for teacher = student, None for terms without a teacher.
    Raises NoEffect or NotZero.
    """
    task = task_for(module)
    student = build_network(stage.learner["network"], module.spec, seeds.derive(stage.seed, "weights"))
    select_parts(student, (stage.trainer or {}).get("parts"))
    result: dict[str, Any] = {
        "parameters": parameters(student),
        "trainable": sum(p.numel() for p in student.parameters() if p.requires_grad),
        "flops": task.flops(student),
        "teacher_flops": None,
        "terms": {},
        "steps": 0,
        "step_seconds": None,
    }
    if stage.trainer is None:
        return result
    monitored(stage.trainer, task)
    objective = build_objective(stage.objective)
    if hasattr(task, "prepare"):
        task.prepare(objective.wanted)
    loader = module.train_loader(stage.trainer["batch_size"], seeds.derive(stage.seed, "data"))
    batch = next(iter(loader))
    taught = None
    if objective.needs_teacher:
        teacher = build_network(stage.teacher.stage.learner["network"], module.spec, seeds.derive(stage.seed, "probe"))
        result["teacher_flops"] = task.flops(teacher)
        with torch.no_grad():
            taught = _as_told(task.predict(teacher.eval(), batch["inputs"]), stage.objective)
    hold_frozen(student.train())
    for _ in range(2):  # the first step pays for allocations; the second is the one that counts
        started = time.perf_counter()
        prediction = task.predict(student, batch["inputs"])
        total, raw = objective(task.tensors(batch, prediction, taught), batch.get("sizes", batch["size"]))
        total.backward(retain_graph=True)
        result["step_seconds"] = time.perf_counter() - started
    result["terms"] = check_first_step(objective, raw, student)
    identity = _identity(objective, task, batch, prediction, _as_told(prediction, stage.objective))
    for name, found in result["terms"].items():
        found["identity"] = identity.get(name)
    result["steps"] = stage.trainer["epochs"] * len(loader)
    return result


def _as_told(prediction, objective: dict[str, Any]):
    """What a teacher's prediction is reduced to for this objective."""
    k = topk.wanted(objective)
    return prediction if k is None else topk.reduced(prediction, k)


def _identity(objective: Objective, task, batch: dict[str, Any], prediction, told) -> dict[str, float]:
    """Raw value of every term that needs a teacher when the teacher says exactly what the student says."""
    with torch.no_grad():
        _, raw = objective(task.tensors(batch, prediction, told), batch.get("sizes", batch["size"]))
    values = {term.name: float(raw[term.name]) for term in objective.active if term.needs_teacher and term.name in raw}
    for name, value in values.items():
        if not abs(value) <= IDENTITY_TOLERANCE:
            raise NotZero(f"the {name} term is {value} for a student that equals its teacher; it must be 0")
    return values
