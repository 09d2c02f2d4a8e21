"""Run one stage: build what it names, fit, select by validation, read test once, leave weights and an outcome."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.learning import seeds
from kdrun.learning.assembly import RunningFit, among_peers, learner_of, prepared, teacher_of
from kdrun.learning.callbacks import Keeping, Selection, usable_state
from kdrun.learning.firststep import NoEffect
from kdrun.learning.gap import Gap
from kdrun.learning.learner import LearnerModule
from kdrun.learning.outcome import Tests, cost_of, leave, size_of, test_rows, write_selection
from kdrun.learning.preflight import other_normalisation
from kdrun.learning.report import Report
from kdrun.learning.request import FitRequest
from kdrun.learning.rollouts import rollouts_of
from kdrun.learning.teacher import TeacherSource, state_digest
from kdrun.learning.teaching import Workshop
from kdrun.learning.trainer import Epochs, make_trainer
from kdrun.ledger.ledger import phase_flops, training_flops
from kdrun.ledger.spending import EVALUATE, TRAIN
from kdrun.networks.weights import save_weights
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError, closest, listed


def run_stage(request: FitRequest, report: Report, workshop: Workshop) -> dict[str, Any]:
    """Fit (or, without a trainer, only evaluate) what `request` describes; the outcome is in JSON types.

    The work folder then holds best.safetensors, last.safetensors, metrics.jsonl and outcome.json.
    Raises: Interrupted after the state was saved; FloatingPointError for a loss that is not finite; NoEffect.
    """
    with workshop.open_ledger(request.work, request.hardware, request.energy, request.rank) as ledger:
        fit = prepared(request, report, workshop, ledger)
        if request.trainer is None:
            return _evaluated(fit)
        before = _before(fit)
        training = _training(fit)
        training.trainer.fit(training.learner, **training.loaders, ckpt_path=training.checkpoint, weights_only=True)
        return _finished(fit, training, before)


def _before(fit: RunningFit) -> dict[str, Any]:
    """{"before": metrics of the test sets that a network with weights is tested on before it is trained}; {} where there are none. A try that
    goes on measures them again: the same weights give the same."""
    request, module = fit.request, fit.module
    if not module.before or (request.start is None and request.learner["weights"] is None):
        return {}
    fit.ledger.energy.enter(EVALUATE)
    trainer = make_trainer({**request.hardware, "devices": 1}, callbacks=[], max_epochs=0)
    learner = LearnerModule(fit.network, fit.task, build_objective({"ce": {"weight": 1.0}}))
    evaluation = {"batch_size": request.trainer["eval_batch_size"], "rank": 0, "world": 1}
    return {"before": Tests(trainer, learner, module, evaluation, None)(module.before)}


def _evaluated(fit: RunningFit) -> dict[str, Any]:
    """The outcome of weights that were brought: no training, one look at validation and at test."""
    request, module, network = fit.request, fit.module, fit.network
    evaluation = {"batch_size": module.preflight_batch, "rank": 0, "world": 1}
    fit.ledger.energy.enter(EVALUATE)
    trainer = make_trainer({**request.hardware, "devices": 1, "nodes": 1}, callbacks=[], max_epochs=0)
    learner = LearnerModule(network, fit.task, build_objective({"ce": {"weight": 1.0}}))
    trainer.validate(learner, module.eval_loader("val", **evaluation), verbose=False)
    size, val = size_of(network, fit.task), learner.evaluated
    samples = sum(module.spec.sizes.get(split, 0) for split in ("val", "test", *module.extra_tests))
    further = Tests(trainer, learner, module, evaluation, request.work)(("test", *module.extra_tests))
    test = further.pop("test")
    outcome = {
        "label": request.label,
        "monitor": fit.task.MAIN,
        "val": {"best": val, "last": val, "epoch_best": None, "epochs": 0},
        "test": {"best": test, "last": test},
        "further": further,
        **other_normalisation(request.learner, network, module, fit.task),
        "history": [],
        "first_step": None,
        "teacher": None,
        "cost": cost_of(
            fit.ledger,
            phase_flops(size["flops"], 0, samples, None, 0, 0),
            steps=0,
            samples=0,
            flops=training_flops(size["flops"], 0, None, 0),
        ),
        **size,
    }
    rows = [{"stage": request.label, "step": 0, "epoch": 0, **{f"val/{k}": v for k, v in val.items()}}]
    leave(request.work, outcome, [], [*rows, *test_rows(request.label, 0, 0, outcome["test"])], fit.report)
    for which in ("best", "last"):
        save_weights(network, request.work / f"{which}.safetensors", module.spec, request.learner["network"])
    return outcome


@dataclass
class Training:
    """What a stage is trained with. peers: the same stage as each network beside the student has it; checkpoint: state of an earlier
    try, or None."""

    learner: LearnerModule
    teacher: TeacherSource | None
    keeping: Keeping
    gap: Gap | None
    trainer: Any
    loaders: dict[str, Any]
    checkpoint: Any
    peers: list[RunningFit]


def _training(fit: RunningFit) -> Training:
    """The Lightning trainer before the first epoch, or before what is left of them, and what it is given."""
    request, epochs = fit.request, fit.request.trainer["epochs"]
    monitored(request.trainer, fit.task)
    objective = build_objective(request.objective)
    fit.task.prepare(objective.wanted)
    teacher = teacher_of(fit, objective)
    loader = fit.module.train_loader(
        request.trainer["batch_size"],
        seeds.derive(request.seed, "data"),
        rank=request.rank,
        world=fit.world,
        labels_only=objective.needs_labels,
    )
    loader.workers = request.hardware.get("workers", 0)
    loader.raw = request.hardware["device"] != "cpu"
    learner = learner_of(fit, objective, teacher, len(loader))
    if request.rollout:
        ranks = {"rank": request.rank, "summed": learner.backend.summed}
        learner.backend.rollout = rollouts_of(fit.task, request.seed, request.rollout, epochs * len(loader), **ranks)
    peers = among_peers(fit, learner, len(loader)) if request.peers else []
    keeping = _keeping(fit, teacher)
    gap = _gap(fit) if request.trainer.get("gap") and request.teachers and teacher is not None else None
    seeds.seed_everything(request.seed, "fit", request.rank)
    trainer = make_trainer(request.hardware, callbacks=[keeping], max_epochs=epochs, sharded=learner.sharded)
    checkpoint = usable_state(request.work, keeping.identity, request.label, request.rank == 0)
    fit.report.stage(request.label, epochs * len(loader), 0)
    fit.ledger.energy.enter(TRAIN)
    validation = fit.module.eval_loader("val", **_evaluation(fit))
    loaders = {"train_dataloaders": Epochs(loader, learner), "val_dataloaders": validation}
    return Training(learner, teacher, keeping, gap, trainer, loaders, checkpoint, peers)


def _finished(fit: RunningFit, training: Training, before: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a stage whose epochs are over."""
    if training.teacher is not None:
        training.teacher.close()
    _check_trained(fit, training.learner, training.trainer)
    return _outcome(fit, training, before)


def _keeping(fit: RunningFit, teacher: TeacherSource | None) -> Keeping:
    request, trainer = fit.request, fit.request.trainer
    return Keeping(
        request.work,
        fit.report,
        request.label,
        monitor=trainer["monitor"],
        mode=trainer["mode"] if fit.module.selects else "last",
        log_every=trainer["log_every"],
        seconds=trainer["checkpoint_seconds"],
        identity={"stage": request.fingerprint, "teacher": request.teacher and request.teacher.fingerprint},
        epochs=trainer["epochs"],
        ledger=fit.ledger,
        asked=0 if teacher is None else teacher.samples,
        peers=[peer["name"] for peer in request.peers],
    )


def _gap(fit: RunningFit) -> Gap:
    request = fit.request
    seen = fit.workshop.seen(request.teachers_view, fit.module) if request.sees else None
    return Gap(request, fit.network, fit.module, fit.task, seen)


def _evaluation(fit: RunningFit) -> dict[str, Any]:
    """How loaders of validation and test divide samples."""
    return {"batch_size": fit.request.trainer["eval_batch_size"], "rank": fit.request.rank, "world": fit.world}


def _check_trained(fit: RunningFit, learner: LearnerModule, trainer: Any) -> None:
    """Raises NoEffect for a term that no batch had, RuntimeError where ranks ended with different parameters: gradients were
    then not averaged."""
    if unseen := [term.name for term in learner.objective.active if term.name not in learner.first_step]:
        told = {} if learner.backend.rollout is None else learner.backend.rollout.counts
        if "reward" in told:
            mean = told["reward"] / max(told["samples"], 1)
            raise NoEffect(
                f"the texts of each group had equal rewards in all {told['batches']} steps (mean {mean:.4g}), so nothing was learned from "
                "them: a student that is right now and then (strategy.start, more epochs before), or a reward with steps in between"
            )
        raise NoEffect(f"no batch had anything for the {' and '.join(unseen)} term: it did nothing")
    learner.gather()
    if fit.world > 1 and not learner.sharded:  # of sharded parameters there is only one copy
        digest = state_digest(dict(learner.student.named_parameters()))
        if trainer.strategy.broadcast(digest, src=0) != digest:
            raise RuntimeError(f"rank {trainer.global_rank} ended with other parameters than rank 0")


def _outcome(fit: RunningFit, training: Training, before: dict[str, Any]) -> dict[str, Any]:
    """Test of the last and of the selected epoch, weights and rows in the work folder, and the outcome."""
    request, module, learner, keeping = fit.request, fit.module, training.learner, training.keeping
    epochs, first = request.trainer["epochs"], request.rank == 0
    shown = {kind: epochs * count for kind, count in training.loaders["train_dataloaders"].loader.per_epoch().items()}
    spent = fit.ledger.totals()
    fit.ledger.energy.enter(EVALUATE)
    figures = _figures(fit, training, learner, keeping.selections[0], request.work if first else None)
    test, further = figures["test"], figures["further"]
    measured = {} if training.gap is None else {"gap": training.gap.after(learner.network)}
    splits = [*(["val"] * epochs), "test", *further, *(["test"] if test["best"] is not test["last"] else [])]
    fit.report.advance(learner.step)
    size, seen = size_of(fit.network, fit.task), module.trained_on()
    peers = [_peer(each, training, place) for place, each in enumerate(training.peers, 1)]
    flops = [size["flops"], *(peer["flops"] for peer in peers)]
    whole = None if None in flops else sum(flops)
    outcome = {
        "label": request.label,
        "monitor": request.trainer["monitor"],
        **figures,
        **measured,
        **before,
        "seen": seen | ({"shown": shown} if "labelled" in seen else {}),
        "teacher": fit.workshop.teaching_notes(request),
        "cost": _cost(fit, training, shown, whole, splits, spent.get("seconds")),
        **({"peers": peers} if peers else {}),
        **({"rollouts": learner.backend.rollout.counts} if request.rollout else {}),
        **size,
    }
    if first:
        leave(request.work, outcome, keeping.rows, test_rows(request.label, learner.step, epochs - 1, test), fit.report)
        write_selection(request.work, keeping.selections[0].right)
    return outcome


def _peer(fit: RunningFit, training: Training, place: int) -> dict[str, Any]:
    """What the record says of a network that was trained beside the student. fit: the stage as it has it; place: among the learners."""
    kept, request = training.keeping.selections[place], fit.request
    figures = _figures(fit, training, training.learner.learners[place], kept, None)
    about = {"name": kept.name, "learner": request.learner["name"], "seed": request.seed}
    return {**about, **figures, **size_of(fit.network, fit.task)}


def _figures(
    fit: RunningFit, training: Training, learner: LearnerModule, kept: Selection, work: Path | None
) -> dict[str, Any]:
    """What a record says of one network: validation, test and further test sets, history and first step. Its weights are then in
    the stage's folder. work: where rows of test samples go."""
    request, module, epochs = fit.request, fit.module, fit.request.trainer["epochs"]
    tests = Tests(training.trainer, learner, module, _evaluation(fit), work)
    last_state = {key: value.detach().to("cpu", copy=True) for key, value in learner.network.state_dict().items()}
    test, further = _tested(tests, learner, kept, epochs)
    for which, state in (("last", last_state), ("best", kept.best_state)) if request.rank == 0 else ():
        file = ".".join(filter(None, (kept.name, which, "safetensors")))
        save_weights(fit.network, request.work / file, module.spec, request.learner["network"], state)
    return {
        "val": {
            "best": kept.best["metrics"],
            "last": {key: value for key, value in kept.history[-1].items() if key not in ("epoch", "step")},
            "epoch_best": kept.best["epoch"],
            "epochs": epochs,
        },
        "test": test,
        "further": further,
        "history": kept.history,
        "first_step": learner.first_step,
    }


def _tested(
    tests: Tests, learner: LearnerModule, kept: Selection, epochs: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"last", "best": metrics of test}, metrics of further test sets); the learner then has the selected weights."""
    last_is_best = kept.best["epoch"] == epochs - 1
    test = {"last": tests(selected=last_is_best)["test"]}
    if last_is_best:
        further = tests(tests.module.extra_tests) if tests.module.extra_tests else {}
        return {**test, "best": test["last"]}, further
    learner.network.load_state_dict(kept.best_state, strict=True)
    further = tests(("test", *tests.module.extra_tests))
    return {**test, "best": further.pop("test")}, further


def _cost(
    fit: RunningFit, training: Training, shown: dict[str, int], flops: int | None, splits: list[str], seconds
) -> dict[str, Any]:
    """shown: samples of each kind that were trained on; flops: of one sample, of all networks; splits: that were evaluated; seconds:
    of training."""
    learner, keeping = training.learner, training.keeping
    spec, taught = fit.module.spec, keeping.taught(learner)
    samples, of_teacher = sum(shown.values()), fit.notes.get("flops")
    evaluated, rollout = sum(spec.sizes.get(split, 0) for split in splits), learner.backend.rollout
    passes = learner.backend.passes * learner.objective.shown * (1 if rollout is None else rollout.group)
    written = 0 if rollout is None else fit.world * rollout.counts["samples"]
    if rollout is not None and rollout.with_teacher:  # the teacher goes through each of them as well
        taught += rollout.counts["samples"]
    asked = (fit.world * count for count in (keeping.asked, taught))
    return cost_of(
        fit.ledger,
        phase_flops(flops, samples * passes, evaluated, of_teacher, *asked, written),
        training_seconds=seconds,
        steps=learner.step,
        samples=samples,
        tokens=learner.positions if spec.per_position else None,
        flops=training_flops(flops, samples, of_teacher, taught, passes, written),
    )


def monitored(trainer: dict[str, Any], task) -> None:
    """Raises UserError where the metric that shall select the best epoch is none of the task's, or points the wrong way."""
    name, mode = trainer["monitor"], trainer["mode"]
    if name not in task.METRICS:
        raise UserError(
            f"trainer.monitor={name}: this task has no such metric{closest(name, task.METRICS)}",
            f"it has: {listed(task.METRICS)}",
        )
    if task.METRICS[name] != mode:
        raise UserError(f"trainer.mode={mode}: a better {name} is {'larger' if mode == 'min' else 'smaller'}")
