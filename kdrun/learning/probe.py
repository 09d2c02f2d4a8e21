"""One step on real shapes, nothing kept: proof before hours are spent that every term does what it should.

A step is computed on the CPU, of as many samples of a batch as step_sizes.OPERATIONS allow. Networks that are too large for that are built
without memory for their weights, and their shapes and operations are all that is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdrun.learning import seeds, topk
from kdrun.learning.backend import Backend
from kdrun.learning.beforehand import network_of
from kdrun.learning.execution import Execution, divisible
from kdrun.learning.firststep import check_first_step
from kdrun.learning.fit import monitored
from kdrun.learning.footprint import footprint, kept_bytes
from kdrun.learning.groups import passes_of
from kdrun.learning.request import TaughtBy
from kdrun.learning.rollouts import rollouts_of
from kdrun.learning.step import compared
from kdrun.learning.step_sizes import batch_size_for, seconds_on_target, too_large
from kdrun.learning.teacher import FrozenTeacher, OtherView
from kdrun.learning.teaching import live_teacher
from kdrun.learning.wiring import capture_of, of_data, reuse_classifier, shapes_of, wire
from kdrun.ledger.flops import parameters
from kdrun.ledger.roofline import PASSES
from kdrun.networks.build import build_network
from kdrun.networks.modes import hold_frozen
from kdrun.networks.parts import select_parts
from kdrun.networks.weights import load_weights
from kdrun.nodes import world_of
from kdrun.objectives.objective_term import labelled_positions
from kdrun.objectives.terms import Objective, build_objective
from kdrun.schema import OWN_WEIGHTS

IDENTITY_TOLERANCE = 1e-6


class NotZero(RuntimeError):
    """A term that compares student and teacher is not zero when both are the same."""


def probe(stage, module, seen=None, stored: Sequence[TaughtBy | None] = ()) -> dict[str, Any]:
    """Look at one training step of a stage (lab.stages.fit.Fit).

    seen: the data as the teachers see them, where that is otherwise. stored: for each teacher what a request says of it
    (lab.stages.fit.Fit.taught_by), None for one that is not in the store: it has random weights here, as a start has that is not there.

    Returns {"terms": {name: {"value", "gradient", "identity"}}, "trainable", "parameters", "flops", "teacher_flops",
    "step_seconds", "on", "passes", "steps", "samples", "untrained", "too_large", "memory"}; memory: of a device, as footprint.footprint
    has it; step_seconds: of a whole step, measured
    on this CPU where it trains (its share of samples times as many), else estimated for the device "on"; too_large: why no step was computed, or
    None; passes: gradients that a step computes; identity is the term's
    value for teacher = student, None for terms without a teacher; untrained: who has random weights here and will have others ("teacher NAME", "start").
    Raises NoEffect or NotZero.
    """
    task, there = module.task(metrics=stage.metrics), seen or module
    shadow = network_of(stage.learner["network"], module.spec)
    select_parts(shadow, (stage.trainer or {}).get("parts"))
    result: dict[str, Any] = {
        "parameters": parameters(shadow),
        "trainable": sum(p.numel() for p in shadow.parameters() if p.requires_grad),
        "flops": task.flops(shadow),
        "teacher_flops": None,
        "terms": {},
        "steps": 0,
        "samples": {},
        "step_seconds": None,
        "on": None,
        "passes": 1,
        "shown": 1,
        "untrained": [],
        "too_large": None,
        "memory": None,
    }
    if stage.trainer is None:
        return result
    monitored(stage.trainer, task)
    result["passes"] = passes_of(stage.trainer)
    objective = build_objective(stage.objective)
    result["shown"] = shown = objective.shown
    loader = _loader(stage, module, objective, stage.trainer["batch_size"])
    result["steps"] = stage.trainer["epochs"] * len(loader)
    result["samples"] = {kind: stage.trainer["epochs"] * count for kind, count in loader.per_epoch().items()}
    nodes, teacher_task = stage.teacher_networks if objective.needs_teacher else [], there.task()
    teachers = [network_of(node, there.spec) for node in nodes]
    flops = [teacher_task.flops(teacher) for teacher in teachers]
    result["teacher_flops"] = None if None in flops or not flops else sum(flops)
    sample = (
        None if result["flops"] is None else shown * (result["passes"] * 3 * result["flops"] + sum(filter(None, flops)))
    )
    samples = sum(loader.per_epoch().values()) / len(loader)
    result["memory"] = _memory(stage, shadow, task, teachers, samples)
    result["too_large"] = too_large([shadow, *teachers], sample)
    if result["too_large"] is None:
        size = batch_size_for(loader, sample)
        few = loader if size == loader.batch_size else _loader(stage, module, objective, size)
        seconds = _step(stage, module, seen, stored, few, result, size < loader.batch_size)
        if stage.hardware["device"] == "cpu":
            result |= {"step_seconds": result["passes"] * seconds * len(few) / len(loader), "on": "cpu"}
            return result
    others = [(teacher, teacher_task) for teacher in teachers]
    accumulate = stage.trainer.get("accumulate", 1)
    seconds, on = seconds_on_target(stage.hardware, (shadow, task), others, samples, accumulate)
    return {**result, "step_seconds": seconds and shown * result["passes"] * seconds, "on": on}


def _memory(stage, shadow: nn.Module, task, teachers: list[nn.Module], samples: float) -> dict[str, float | None]:
    """Of a device that takes its share of so many samples, of the typical size of the task."""
    share = samples / world_of(stage.hardware) / stage.trainer.get("accumulate", 1)
    spec, kept = task.spec, kept_bytes(shadow, task.typical)
    numbers = share * ((task.TYPICAL_TOKENS or 1) * spec.vocabulary if spec.per_position else spec.outputs)
    return footprint(shadow, teachers, stage.trainer, stage.hardware, kept and kept * share, numbers, stage.teaching)


def _loader(stage, module, objective: Objective, batch_size: int) -> Any:
    return module.train_loader(batch_size, seeds.derive(stage.seed, "data"), labels_only=objective.needs_labels)


def _step(stage, module, seen, stored, loader, result: dict[str, Any], dear: bool) -> float:
    """Seconds of a step on a batch of the loader, on this CPU; "terms" and "untrained" of the result are then known. dear: it is computed
    once."""
    task = module.task(metrics=stage.metrics)
    objective = build_objective(stage.objective)
    task.prepare(objective.wanted)
    student = build_network(stage.learner["network"], module.spec, seeds.derive(stage.seed, "weights"))
    select_parts(student, stage.trainer.get("parts"))
    _load_start(stage, student, module, result["untrained"])
    batch = next(iter(loader))
    if "reward" in stage.rollout:  # no term has anything in a batch of the data
        batch = rollouts_of(task, stage.seed, stage.rollout)(student, {**batch, "step": 0})
    asked, shapes, widths = None, [], []
    if objective.needs_teacher:
        teachers = _teachers(stage, seen or module, objective, stored, result)
        view = None if seen is None else seen.view_of(module)
        for teacher in teachers:
            teacher.capture = capture_of(teacher.network, objective, "teacher")
            shapes.append(shapes_of(teacher.network, objective, "teacher", teacher.task, (seen or module).spec))
        reuse_classifier(objective, student, [teacher.network for teacher in teachers])
        sources = [teacher if view is None else OtherView(teacher, view) for teacher in teachers]
        asked = _Answers(sources, stage.objective)
        asked.outputs(batch)
        if objective.takes("student_features"):
            widths = [teacher.task.feature_width(teacher.network) for teacher in teachers]
    objective, adaptor = wire(
        objective,
        shapes_of(student, objective, "student", task, module.spec),
        shapes,
        (task.feature_width(student), widths) if widths else None,
        stage.seed,
        network=student,
        importance=None,
        **of_data(module, loader.batch_size),
    )
    beside = {"terms": nn.ModuleDict(objective.modules)} if objective.modules else {}
    capture = capture_of(student, objective, "student")
    backend = _Probed(task, student, adaptor=adaptor, capture=capture, beside=beside)
    if dear and divisible(
        student
    ):  # activations are computed again, which takes a quarter of the time and leaves a plan small
        backend.execution = Execution(student, recompute=True, capture=capture)
    count = batch.get("sizes", batch["size"])
    hold_frozen(student.train())
    for _ in range(1 if dear else 2):  # the first step pays for allocations; of small ones the second counts
        given = total = raw = backend.said = None  # one graph at a time
        started = time.perf_counter()
        given = compared(student, asked, objective, batch, 0, backend)
        total, raw = objective(given, count)
        total.backward(retain_graph=True)
        seconds = (time.perf_counter() - started) * (PASSES / (PASSES + 1) if backend.execution else 1)
    if stage.rollout:
        seconds += _rollout_seconds(stage, task, student, batch) / result["passes"]
    same = bool(stage.start and stage.teacher) and stage.begun.fingerprint == stage.teacher.fingerprint
    alike = stage.averaged or same or stage.importance is not None
    result["terms"] = check_first_step(objective, raw, student, alike=alike, beside=backend.beside)
    identity = _identity(objective, task, batch, backend.said, _as_told(backend.said, stage.objective))
    for name, found in result["terms"].items():
        found["identity"] = identity.get(name)
    return seconds


class _Probed(Backend):
    """said: what the student predicted of the batch, in its first view."""

    said: Any = None

    def tensors(self, batch, prediction, taught):
        self.said = self.said if "shown" in batch else prediction
        return super().tensors(batch, prediction, taught)


class _Answers:
    """What teachers say of one batch, each asked once about each of its views."""

    def __init__(self, teachers: list[Any], objective: dict[str, Any]):
        self._teachers, self._objective, self._known = teachers, objective, {}

    def outputs(self, batch: dict[str, Any], step: int = 0) -> Any:
        view = batch.get("shown")
        if view not in self._known:
            told = [_as_told(teacher.outputs(batch), self._objective) for teacher in self._teachers]
            self._known[view] = told[0] if len(told) == 1 else told
        return self._known[view]


def _rollout_seconds(stage, task, student: nn.Module, batch: dict[str, Any]) -> float:
    """What writing texts takes of a step, over all steps."""
    share = stage.rollout.get("share", 1.0)
    rollouts = rollouts_of(task, stage.seed, {**stage.rollout, **({"share": 1.0} if share < 1 else {})})
    started = time.perf_counter()
    rollouts(student, {**batch, "step": 0})
    return (share or stage.rollout.get("raised_by", 0)) * (time.perf_counter() - started)


def _load_start(stage, student, module, untrained: list[str]) -> None:
    """The weights that the stage starts from, as far as they are there."""
    if stage.learner["weights"] not in (None, OWN_WEIGHTS):
        load_weights(student, stage.learner["weights"], module.spec)
    if stage.start is not None and stage.start.path is None:
        untrained.append("start")
    elif stage.start is not None:
        load_weights(student, stage.start.weights(stage.start_epoch), module.spec)


def _teachers(stage, module, objective: Objective, stored, result: dict[str, Any]) -> list[FrozenTeacher]:
    """The frozen teachers of a stage, on the data as they see them; notes who is not trained."""
    task, found = module.task(), []
    task.prepare(objective.wanted)
    beside = [(peer["learner"]["network"], peer["seed"], "peers") for peer in stage.peers]
    beside += [(stage.learner["network"], stage.seed, "average")] if stage.averaged else []
    for node, seed, name in beside:
        network = build_network(node, module.spec, seeds.derive(seed, "weights"))
        found.append(FrozenTeacher(network, task, name))
    for number, teacher in enumerate(stage.teachers):
        asked = stored[number] if number < len(stored) else None
        if asked is None:
            seed = seeds.derive(stage.seed, "probe") + number
            network = build_network(teacher.stage.learner["network"], module.spec, seed)
            found.append(FrozenTeacher(network, task, teacher.fingerprint))
            result["untrained"].append(f"teacher {teacher.stage.learner['name']}")
        else:
            found.append(live_teacher(asked, module, task, torch.device("cpu")))
    return found


def _as_told(prediction, objective: dict[str, Any]):
    """What a teacher's prediction is reduced to for this objective."""
    k = topk.wanted(objective)
    return prediction if k is None else topk.reduced(prediction, k)


def _identity(objective: Objective, task, batch: dict[str, Any], prediction, told) -> dict[str, float]:
    """Raw value of every term that needs a teacher when the teacher says exactly what the student says; not of terms that capture
    modules, which two networks have of different make, or that learn or remember something."""
    alike = [term for term in objective.active if not (term.pairs or term.logits or term.view)]
    plain = [term for term in alike if term.name not in objective.modules]
    with torch.no_grad():
        tensors = task.tensors(batch, prediction, told)
        tensors |= labelled_positions(batch, tensors.get("mask"))
        _, raw = replace(objective, terms=tuple(plain))(tensors, batch.get("sizes", batch["size"]))
    compared = [term for term in plain if term.needs_teacher and term.name in raw]
    values = {term.name: float(raw[term.name]) for term in compared}
    for term in compared:
        if term.zero_at_equality and not abs(value := values[term.name]) <= IDENTITY_TOLERANCE:
            raise NotZero(
                f"the {term.name} term is {value} for a student that equals its teacher; it must be 0, or say that it is not "
                "(function.zero_at_equality = False)"
            )
    return values
