"""Run one stage: build what it names, fit, select by validation, read test once, leave weights and an outcome."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdrun.domains.images.spec import SINGLE
from kdrun.domains.task import task_for
from kdrun.files import write_atomic, write_json
from kdrun.learning import seeds
from kdrun.learning.adaptor import make_adaptor
from kdrun.learning.callbacks import AtomicCheckpointIO, Keeping, usable_state
from kdrun.learning.firststep import NoEffect
from kdrun.learning.gap import Gap
from kdrun.learning.learner import Learner
from kdrun.learning.preflight import other_normalisation
from kdrun.learning.report import Report
from kdrun.learning.resampling import write_samples
from kdrun.learning.schedule import schedule
from kdrun.learning.sharding import ShardedStrategy, check_shardable
from kdrun.learning.teacher import state_digest
from kdrun.learning.teaching import Workshop, prepare_teacher
from kdrun.ledger.flops import parameters
from kdrun.ledger.ledger import Ledger, phase_flops, training_flops
from kdrun.ledger.spending import EVALUATE, PREPARE, TEACHER, TRAIN
from kdrun.networks.build import build_network
from kdrun.networks.parts import select_parts
from kdrun.networks.weights import load_weights, save_weights
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError, closest, listed
from kdrun.targets import build

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def run_stage(request: dict[str, Any], report: Report, shop: Workshop) -> dict[str, Any]:
    """Fit (or, without a trainer, only evaluate) what `request` describes; plain data in, plain data out.

    The work folder then holds best.safetensors, last.safetensors, and metrics.jsonl's rows are in the outcome.
    Raises: Interrupted after the state was saved; FloatingPointError for a loss that is not finite; NoEffect.
    """
    with shop.open_ledger(request) as ledger:
        return _run_stage(request, report, shop, ledger)


def _run_stage(request: dict[str, Any], report: Report, shop: Workshop, ledger: Ledger) -> dict[str, Any]:
    work = Path(request["work"])
    module = shop.data(request["data"])
    if hasattr(module, "prepare") and (missing := module.features_missing()):
        report.stage("features of images", missing, 0, unit="image")
        module.prepare(report.advance)
    seed, trainer_config = request["seed"], request["trainer"]
    task = task_for(module, (trainer_config or {}).get("decoding"))
    network = build_network(request["learner"]["network"], module.spec, seeds.derive(seed, "weights"))
    for source in (request["learner"]["weights"], (request["start"] or {}).get("weights")):
        if source:
            for note in load_weights(network, source, module.spec, as_trained=trainer_config is None).notes:
                report.note(note)
    if request["hardware"]["channels_last"]:
        network.to(memory_format=torch.channels_last)  # convolutions then give and take this layout by themselves
    select_parts(network, (trainer_config or {}).get("parts"))
    if trainer_config is None:
        return _evaluate_only(request, network, task, module, report, ledger)

    monitored(trainer_config, task)
    objective = build_objective(request["objective"])
    if hasattr(task, "prepare"):
        task.prepare(objective.wanted)
    teacher = None
    if objective.needs_teacher:
        ledger.energy.enter(TEACHER)
        teacher = prepare_teacher(request, objective, module, task, report, shop)
        ledger.energy.enter(PREPARE)
    adaptor = None if teacher is None else _adaptor(request, objective, network, module, shop)
    world = request["hardware"]["devices"]
    rank = request.get("rank", 0)
    loader = module.train_loader(trainer_config["batch_size"], seeds.derive(seed, "data"), rank=rank, world=world)
    epochs = trainer_config["epochs"]
    sharded = trainer_config.get("sharding", "none") == "fsdp"
    if sharded and world == 1:
        sharded = False
        report.note("trainer.sharding=fsdp: with one device there is nothing to share, the student is trained whole")
    if sharded and adaptor is not None:
        raise UserError("trainer.sharding=fsdp does not go with features of two widths", "give trainer.sharding=none")
    if sharded:
        check_shardable(network, trainer_config, request["hardware"])
    learner = Learner(
        copy.deepcopy(network) if sharded else network,
        task,
        objective,
        optimizer=lambda parameters: build(trainer_config["optimizer"], "optimizer", params=parameters),
        rate=schedule(trainer_config["schedule"], epochs, len(loader)),
        teacher=teacher,
        accumulate=trainer_config["accumulate"],
        clip=trainer_config["clip"],
        ema=trainer_config["ema"],
        whole=network if sharded else None,
        adaptor=adaptor,
        alike=bool(request["start"] and request["teacher"])
        and request["start"]["fingerprint"] == request["teacher"]["fingerprint"],
    )
    keeping = Keeping(
        work,
        report,
        request["label"],
        monitor=trainer_config["monitor"],
        mode=trainer_config["mode"],
        log_every=trainer_config["log_every"],
        seconds=trainer_config["checkpoint_seconds"],
        identity={"stage": request["fingerprint"], "teacher": (request["teacher"] or {}).get("fingerprint")},
        epochs=epochs,
        ledger=ledger,
        asked=0 if teacher is None else teacher.samples,
    )
    measured = None
    if trainer_config.get("gap") and teacher is not None:
        seen = shop.seen({**request["data"], **request["sees"]}, module) if request.get("sees") else None
        measured = Gap(request, network, module, task, seen)
    seeds.seed_everything(seed, "fit", rank)
    trainer = make_trainer(request["hardware"], callbacks=[keeping], max_epochs=epochs, sharded=sharded)
    checkpoint = usable_state(work, keeping.identity, request["label"], rank == 0)
    report.stage(request["label"], epochs * len(loader), 0)
    evaluation = {"batch_size": trainer_config["eval_batch_size"], "rank": rank, "world": world}
    ledger.energy.enter(TRAIN)
    trainer.fit(
        learner,
        train_dataloaders=_Epochs(loader, learner),
        val_dataloaders=module.eval_loader("val", **evaluation),
        ckpt_path=checkpoint,
        weights_only=True,
    )
    if teacher is not None:
        teacher.close()
    if unseen := [term.name for term in objective.active if term.name not in (learner.first_step or {})]:
        raise NoEffect(f"no batch had anything for the {' and '.join(unseen)} term: it did nothing")
    learner.gather()
    if world > 1 and not sharded:  # of sharded parameters there is only one copy
        _check_ranks(trainer, learner)

    training = ledger.totals()
    ledger.energy.enter(EVALUATE)
    size, samples = _size(network, task), epochs * module.spec.sizes["train"]
    notes = shop.teaching_notes(request) or {}
    tests = partial(_tests, trainer, learner, module, evaluation, work if rank == 0 else None)
    last_state = {key: value.detach().to("cpu", copy=True) for key, value in learner.network.state_dict().items()}
    test = {"last": tests()["test"]}
    if keeping.best["epoch"] == epochs - 1:
        test["best"], further = test["last"], tests(module.extra_tests) if module.extra_tests else {}
    else:
        learner.network.load_state_dict(keeping.best_state, strict=True)
        further = tests(("test", *module.extra_tests))
        test["best"] = further.pop("test")
    gap = None if measured is None else measured.after(learner.network)
    looked = [*(["val"] * epochs), "test", *further, *(["test"] if test["best"] is not test["last"] else [])]
    report.advance(learner.step)
    outcome = {
        "label": request["label"],
        "monitor": trainer_config["monitor"],
        "val": {
            "best": keeping.best["metrics"],
            "last": {key: value for key, value in keeping.history[-1].items() if key not in ("epoch", "step")},
            "epoch_best": keeping.best["epoch"],
            "epochs": epochs,
        },
        "test": test,
        "further": further,
        **({} if gap is None else {"gap": gap}),
        "history": keeping.history,
        "first_step": learner.first_step,
        "teacher": shop.teaching_notes(request),
        "cost": _cost(
            ledger,
            phase_flops(
                size["flops"],
                samples,
                sum(module.spec.sizes.get(split, 0) for split in looked),
                notes.get("flops"),
                *(world * count for count in (keeping.asked, keeping.taught(learner))),
            ),
            training_seconds=training.get("seconds"),
            steps=learner.step,
            samples=samples,
            tokens=None if module.spec.kind in SINGLE else learner.positions,
            flops=training_flops(size["flops"], samples, notes.get("flops"), keeping.taught(learner)),
        ),
        **size,
    }
    if rank == 0:
        rows = [*keeping.rows, *_test_rows(request["label"], learner.step, epochs - 1, test)]
        report.rows(rows[len(keeping.rows) :])
        _leave(work, outcome, rows)
        for which, state in (("last", last_state), ("best", keeping.best_state)):
            save_weights(network, work / f"{which}.safetensors", module.spec, request["learner"]["network"], state)
    return outcome


class _Epochs:
    """The loader as Lightning sees it: every pass begins by telling the loader which epoch it is.

    The learner's own count of steps says so: after a resume at the end of an epoch, Lightning makes the next iterator
    before it has counted the epoch as complete.
    """

    def __init__(self, loader, learner: Learner):
        self.loader = loader
        self.learner = learner

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        self.loader.set_epoch(self.learner.step // len(self.loader))
        return iter(self.loader)

    def state_dict(self) -> dict[str, int]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loader.load_state_dict(state)


def _adaptor(request: dict[str, Any], objective, network, module, shop: Workshop) -> torch.nn.Linear | None:
    """Between the features of the student and of its teachers; None where nothing compares them."""
    if "student_features" not in objective.wanted:
        return None
    notes = shop.teaching_notes(request) or {}
    widths = {note["features"] for note in (notes, *notes.get("also", ())) if "features" in note}
    return make_adaptor(shop.width(request["learner"]["network"], module), widths, request["seed"])


def make_trainer(hardware: dict[str, Any], callbacks: list, max_epochs: int, sharded: bool = False):
    """A Lightning Trainer with nothing on it that kdrun does itself (records, bars, checkpoints, sampling)."""
    from lightning import Trainer
    from lightning.pytorch.strategies import DDPStrategy

    # Only after the import: importing lightning sets its loggers back to INFO.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    world = hardware["devices"]
    accelerator = {"cuda": "gpu"}.get(hardware["device"], hardware["device"])
    kind = ShardedStrategy if sharded else DDPStrategy
    strategy = kind(process_group_backend="nccl" if accelerator == "gpu" else "gloo") if world > 1 else "auto"
    trainer = Trainer(
        accelerator=accelerator,
        devices=world,
        strategy=strategy,
        precision=PRECISION[hardware["precision"]],
        max_epochs=max_epochs,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    # Lightning answers SIGTERM by an exception between two hooks, before the state is saved; kdrun's own handler asks
    # the callbacks to save first.
    trainer._signal_connector.register_signal_handlers = lambda: None
    return trainer


def _tests(
    trainer, learner: Learner, module, evaluation: dict[str, Any], work: Path | None, splits: Sequence[str] = ("test",)
) -> dict[str, dict[str, float]]:
    """{test set: metrics}; what the task tells of its samples goes to samples.SPLIT.jsonl in the work folder.

    A task that KEEPS rows of validation sets thresholds on them.
    """
    found, rows = {}, {}
    for split in (*getattr(learner.task, "KEEPS", ()), *splits):
        trainer.test(learner, module.eval_loader(split, **evaluation), verbose=False)
        found[split], rows[split] = learner.evaluated, learner.samples
        if rows[split] and work is not None:
            write_samples(work, split, rows[split])
    for split in splits:
        if "val" in rows:
            found[split] = {**found[split], **learner.task.details(rows[split], rows["val"])}
        elif rows[split] and hasattr(learner.task, "details"):
            found[split] = {**found[split], **by_type(learner.task.details(rows[split])["types"])}
    return {split: found[split] for split in splits}


def by_type(types: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`accuracy/colour`, and `f1/exist` where a type has one: scores of single types of questions beside those of all."""
    return {
        f"{score}/{name}": float(values[score])
        for name, values in types.items()
        for score in ("accuracy", "f1")
        if values.get(score) is not None
    }


def _evaluate_only(request, network, task, module, report: Report, ledger: Ledger) -> dict[str, Any]:
    """Weights that were brought: no training, one look at validation and at test."""
    evaluation = {"batch_size": module.preflight_batch, "rank": 0, "world": 1}
    ledger.energy.enter(EVALUATE)
    trainer = make_trainer({**request["hardware"], "devices": 1}, callbacks=[], max_epochs=0)
    learner = Learner(network, task, build_objective({"ce": {"weight": 1.0}}))
    trainer.validate(learner, module.eval_loader("val", **evaluation), verbose=False)
    size = _size(network, task)
    work = Path(request["work"])
    val = learner.evaluated
    evaluated = sum(module.spec.sizes.get(split, 0) for split in ("val", "test", *module.extra_tests))
    further = _tests(trainer, learner, module, evaluation, work, ("test", *module.extra_tests))
    test = further.pop("test")
    outcome = {
        "label": request["label"],
        "monitor": task.MAIN,
        "val": {"best": val, "last": val, "epoch_best": None, "epochs": 0},
        "test": {"best": test, "last": test},
        "further": further,
        **other_normalisation(request["learner"], network, module, task),
        "history": [],
        "first_step": None,
        "teacher": None,
        "cost": _cost(
            ledger,
            phase_flops(size["flops"], 0, evaluated, None, 0, 0),
            steps=0,
            samples=0,
            flops=training_flops(size["flops"], 0, None, 0),
        ),
        **size,
    }
    rows = [{"stage": request["label"], "step": 0, "epoch": 0, **{f"val/{k}": v for k, v in val.items()}}]
    rows += _test_rows(request["label"], 0, 0, outcome["test"])
    report.rows(rows)
    _leave(work, outcome, rows)
    for which in ("best", "last"):
        save_weights(network, work / f"{which}.safetensors", module.spec, request["learner"]["network"])
    return outcome


def _test_rows(label: str, step: int, epoch: int, test: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    values = {f"test/{name}_{which}": value for which in ("best", "last") for name, value in test[which].items()}
    return [{"stage": label, "step": step, "epoch": epoch, **values}]


def _check_ranks(trainer, learner: Learner) -> None:
    """Raises RuntimeError where ranks ended with different parameters: gradients were then not averaged."""
    digest = state_digest(dict(learner.student.named_parameters()))
    if trainer.strategy.broadcast(digest, src=0) != digest:
        raise RuntimeError(f"rank {trainer.global_rank} ended with other parameters than rank 0")


def _cost(ledger: Ledger, work: dict[str, float] | None, **counted: Any) -> dict[str, Any]:
    """The cost of a stage: what the readers measured, and what was counted. tokens is for tasks that have them.

    work: FLOPs of each phase, for the energy model (see ledger.phase_flops).
    """
    measured = {name: None if value is None else round(value, 3) for name, value in ledger.totals().items()}
    energy = ledger.energy.record(work)
    return {**measured, "tries": ledger.tries, **{"tokens": None, **counted}, "energy": energy}


def _size(network, task) -> dict[str, Any]:
    packaged = parameters(network.tower) if getattr(network, "packaged", False) else 0
    return {"parameters": parameters(network), "packaged": packaged, "flops": task.flops(network)}


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


def _leave(work: Path, outcome: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    import json

    write_atomic(work / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_json(work / "outcome.json", outcome)
