"""What a stage begins with: its data, networks, teachers, objective, and the learner made of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.learning import seeds
from kdrun.learning.adaptor import Adaptors
from kdrun.learning.device import resolve
from kdrun.learning.execution import execution_of
from kdrun.learning.groups import make_optimizer
from kdrun.learning.learner import LearnerModule
from kdrun.learning.report import Leaving, Report
from kdrun.learning.request import FitRequest
from kdrun.learning.schedule import schedule
from kdrun.learning.sharding import check_shardable
from kdrun.learning.teacher import FrozenTeacher, OwnAverage, Peers, TeacherSource
from kdrun.learning.teaching import Workshop, prepare_teacher
from kdrun.learning.wiring import capture_of, dry_shapes, of_data, reuse_classifier, wire
from kdrun.ledger.ledger import Ledger
from kdrun.ledger.spending import PREPARE, TEACHER
from kdrun.networks.build import build_network
from kdrun.networks.modes import hold_frozen
from kdrun.networks.parts import select_parts
from kdrun.networks.weights import load_weights
from kdrun.nodes import world_of
from kdrun.objectives.terms import Objective, build_objective
from kdrun.parts import WHOLE
from kdrun.problems import UserError
from kdrun.schema import OWN_WEIGHTS
from kdrun.term_weights import Length

CALIBRATED = 32
"""Samples of a batch before the first step."""


@dataclass
class RunningFit:
    """One stage while it runs: what was asked, its data, what a batch is, and the network that it begins with."""

    request: FitRequest
    report: Report
    workshop: Workshop
    ledger: Ledger
    module: Any
    task: Any
    network: nn.Module

    @property
    def world(self) -> int:
        return world_of(self.request.hardware)

    @property
    def notes(self) -> dict[str, Any]:
        """What was measured of the teachers."""
        return self.workshop.teaching_notes(self.request) or {}


def prepared(request: FitRequest, report: Report, workshop: Workshop, ledger: Ledger) -> RunningFit:
    """Data and network as the stage finds them."""
    module = workshop.data(request.data)
    if missing := module.features_missing():
        report.stage("features of images", missing, 0, unit="image")
        module.prepare(Leaving(report).advance)
    trainer = request.trainer or {}
    task = module.task(trainer.get("decoding"), request.metrics)
    return RunningFit(request, report, workshop, ledger, module, task, _network(request, module, report))


def _network(request: FitRequest, module: Any, report: Report) -> nn.Module:
    """The network of a request with the weights that it begins with."""
    trainer = request.trainer or {}
    network = build_network(request.learner["network"], module.spec, seeds.derive(request.seed, "weights"))
    for source in (request.learner["weights"], request.start and request.start.weights):
        if source not in (None, OWN_WEIGHTS):
            for note in load_weights(network, source, module.spec, as_trained=request.trainer is None).notes:
                report.note(note)
    if hasattr(network, "calibrate"):  # it looks at training samples before the first step (networks.elastic)
        _calibrate(network, module, resolve(request.hardware)["device"])
    if request.hardware["channels_last"]:
        network.to(memory_format=torch.channels_last)  # convolutions then give and take this layout by themselves
    select_parts(network, trainer.get("parts"))
    return network


def _calibrate(network: nn.Module, module: Any, device: str) -> None:
    """Shows a network as many training samples, spread evenly and not augmented, as it wants to see, and tells it where it will run."""
    task, samples = module.task(), module.samples("train")
    count = min(network.calibration, len(samples))
    places = np.unique(np.linspace(0, len(samples) - 1, count).astype(np.int64))
    batches = (samples.batch(places[first : first + CALIBRATED]) for first in range(0, len(places), CALIBRATED))
    network.calibrate(lambda batch: task.predict(network, batch["inputs"]), batches, device)


def teacher_of(fit: RunningFit, objective: Objective) -> TeacherSource | None:
    if not objective.needs_teacher:
        return None
    if fit.request.averaged:
        flops = fit.task.flops(fit.network)
        fit.workshop.note_teaching(fit.request, average=fit.request.trainer["ema"], flops=flops)
        return OwnAverage(fit.task)
    if fit.request.peers:
        return Peers(fit.task)
    fit.ledger.energy.enter(TEACHER)
    teacher = prepare_teacher(fit.request, objective, fit.module, fit.task, fit.report, fit.workshop)
    fit.ledger.energy.enter(PREPARE)
    return teacher


def learner_of(fit: RunningFit, objective: Objective, teacher: TeacherSource | None, steps: int) -> LearnerModule:
    """The student with all that trains it. steps: of an epoch."""
    request, trainer = fit.request, fit.request.trainer
    objective, adaptor = _wired(fit, objective, Length(steps * trainer["epochs"], steps))
    live = getattr(teacher, "live", teacher)  # of one that sees samples otherwise
    reuse_classifier(objective, fit.network, [live.network] if isinstance(live, FrozenTeacher) else [])
    sharded = _sharded(fit)
    if sharded and (adaptor is not None or objective.modules):
        what = "features that are captured or of two widths, nor with terms that have parameters or memory"
        raise UserError(f"trainer.sharding=fsdp does not go with {what}", "give trainer.sharding=none")
    if sharded:
        check_shardable(fit.network, trainer, request.hardware)
    student = copy.deepcopy(fit.network) if sharded else fit.network
    beside = {**({} if adaptor is None else {"adaptor": adaptor}), "terms": nn.ModuleDict(objective.modules)}
    learner = LearnerModule(
        student,
        fit.task,
        objective,
        optimizer=lambda parameters: make_optimizer(trainer, parameters, student, beside),
        rate=schedule(trainer["schedule"], trainer["epochs"], steps),
        teacher=teacher,
        accumulate=trainer["accumulate"],
        clip=trainer["clip"],
        ema=trainer["ema"],
        whole=fit.network if sharded else None,
        gathered=trainer.get("gather"),
        adaptor=adaptor,
        alike=request.alike,
        balance=trainer.get("balance"),
    )
    capture = learner.backend.capture
    learner.backend.execution = execution_of(student, trainer, fit.world, objective, "student", capture)
    if fit.world > 1 and not trainer.get("sync_batch_norm") and _normalises_batches(student):
        share = (
            f"each of {fit.world} devices normalises by its own {trainer['batch_size'] // fit.world} samples of a batch"
        )
        fit.report.note(f"batch normalisation: {share}; trainer.sync_batch_norm=true normalises by all")
    return learner


def _normalises_batches(network: nn.Module) -> bool:
    """Whether it normalises by statistics of a batch in training."""
    hold_frozen(network)
    return any(isinstance(part, _BatchNorm) and part.training for part in network.modules())


def among_peers(fit: RunningFit, learner: LearnerModule, steps: int) -> list[RunningFit]:
    """Joins to a learner those of its peers, each of which is taught by all others. Returns the peers; steps: of an epoch."""
    request, report = fit.request, fit.report
    trained = [
        {"name": WHOLE, **{key: getattr(request, key) for key in ("learner", "trainer", "seed")}},
        *request.peers,
    ]
    fits, learners = [fit], [learner]
    for place, peer in enumerate(request.peers, 1):
        own = {key: peer[key] for key in ("learner", "trainer", "seed")}
        asked = replace(request, **own, peers=tuple(trained[:place] + trained[place + 1 :]))
        fits.append(replace(fit, request=asked, network=_network(asked, fit.module, report)))
        objective = build_objective(request.objective)
        learners.append(learner_of(fits[-1], objective, teacher_of(fits[-1], objective), steps))
    for each in learners:
        others = [other.student for other in learners if other is not each]
        if each.teacher is not None:
            each.teacher.follow([(network, capture_of(network, each.objective, "teacher")) for network in others])
    learner.join(learners[1:])
    flops = [fit.task.flops(each.network) for each in fits]
    asked = None if None in flops else (len(flops) - 1) * sum(flops)  # in a step each is asked by all others
    fit.workshop.note_teaching(request, peers=[peer["name"] for peer in request.peers], flops=asked)
    return fits[1:]


def _sharded(fit: RunningFit) -> bool:
    """Whether the student lies in parts over several devices."""
    if fit.request.trainer.get("sharding", "none") != "fsdp":
        return False
    if fit.world == 1:
        fit.report.note(
            "trainer.sharding=fsdp: with one device there is nothing to share, the student is trained whole"
        )
    return fit.world > 1


def _wired(fit: RunningFit, objective: Objective, length: Length) -> tuple[Objective, Adaptors | None]:
    """The objective as it begins, and what lies between the features of the student and of its teachers; None where nothing
    compares them. length: of the stage."""
    request, module, features = fit.request, fit.module, None
    if objective.takes("student_features") and (request.averaged or request.peers):
        widths = [fit.workshop.width(network, module) for network in request.teacher_networks]
        features = fit.workshop.width(request.learner["network"], module), widths
    elif objective.takes("student_features") and request.teachers:
        notes = fit.notes
        widths = [note["features"] for note in (notes, *notes.get("also", ())) if "features" in note]
        features = fit.workshop.width(request.learner["network"], module), widths
    seen = (
        fit.workshop.seen(request.teachers_view, module) if request.sees and objective.captures("teacher") else module
    )
    return wire(
        objective,
        dry_shapes(request.learner["network"], objective, "student", fit.task, module.spec),
        [dry_shapes(network, objective, "teacher", fit.task, seen.spec) for network in request.teacher_networks],
        features,
        request.seed,
        length,
        network=fit.network,
        importance=request.importance,
        **of_data(module, request.trainer["batch_size"]),
    )
