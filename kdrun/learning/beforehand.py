"""Before the first stage of a job is fitted: everything that its stages will build is built once, on the meta device where that
is possible, so that a mistake in the last stage does not cost the ones before it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from kdrun import losses, targets
from kdrun.learning import policy
from kdrun.learning.adaptor import Shapes
from kdrun.learning.backend import wants_closure
from kdrun.learning.broken import broken, place_of
from kdrun.learning.device import available
from kdrun.learning.execution import check_execution
from kdrun.learning.fit import monitored
from kdrun.learning.fitting import fitting
from kdrun.learning.groups import check_groups, check_optimizer
from kdrun.learning.schedule import schedule
from kdrun.learning.step import no_view
from kdrun.learning.wiring import capture_of, dry_shapes, of_data, reuse_classifier, shapes_of, wire
from kdrun.networks.build import build_network, seeded
from kdrun.networks.parts import select_parts
from kdrun.objectives.terms import Objective, build_objective
from kdrun.problems import UserError, listed
from kdrun.term_weights import Length

TYPICAL = {
    **dict.fromkeys(("num_classes", "num_labels"), 10),
    **dict.fromkeys(("in_channels", "in_chans"), 3),
    **dict.fromkeys(("image_size", "img_size"), 32),
    **dict.fromkeys(("vocabulary", "vocab_size"), 256),
    **{"pad": 0, "bos": 1, "eos": 2, "max_length": 32, "image_token": 3, "image_tokens": 4},
}
"""What networks ask of data, where none have been looked at yet."""
TRIED = 8
"""Training rows that a reward is tried on."""
MOST_NAMED = 12
"""Objectives that a message names."""


def check_names(nodes: Iterable[Any]) -> None:
    """Imports whatever `_target_` names in these trees. Raises UserError with the file and line where an import fails."""
    for name in dict.fromkeys(name for node in nodes for name in _names(node)):
        try:
            targets.locate(name)
        except UserError:
            raise
        except Exception as error:
            raise broken(f"_target_ {name} cannot be imported", error) from error


def check_paths(stages: Iterable[Any]) -> None:
    """Raises UserError for a module path of an objective that the student or a teacher lacks, and for a group of parameters that no
    network of a stage has. No data are needed: networks are built for TYPICAL ones, without memory for their weights; one that
    cannot be is left to `check_builds`."""
    for stage in stages:
        check_execution(stage.trainer or {})
        if (stage.trainer or {}).get("groups"):
            networks = [_typical(node) for node in stage.networks]
            if None not in networks:
                check_groups(stage.trainer, networks)
        if getattr(stage, "objective", None) is None or stage.trainer is None:
            continue
        objective = build_objective(stage.objective)
        _in_whole_batches(objective, stage.trainer)
        teachers = [("teacher", node) for node in stage.teacher_networks]
        for who, node in [("student", stage.learner["network"]), *teachers]:
            if not objective.captures(who):
                continue
            if (network := _typical(node)) is not None:
                capture_of(network, objective, who)


def _typical(node: dict[str, Any]) -> nn.Module | None:
    """The network for TYPICAL data on the meta device; None where it cannot be built so."""
    try:
        with torch.device("meta"), seeded(0):
            return targets.build(node, "network", **TYPICAL)
    except Exception:
        return None


def _in_whole_batches(objective: Objective, trainer: dict[str, Any]) -> None:
    """Raises UserError where a batch is computed in parts and a term compares its samples with each other."""
    for term in objective.active:
        if term.whole_batch and trainer.get("accumulate", 1) > 1:
            raise UserError(
                f"trainer.accumulate={trainer['accumulate']}: objective.{term.name} compares the samples of a batch with each "
                "other, and those of its parts would be another loss",
                "trainer.accumulate=1, with a smaller trainer.batch_size",
            )


def check_aligned(stages: Iterable[Any], workshop: Any) -> None:
    """Raises UserError for a stage whose teacher predicts other pieces of a sample than the student (another tokenizer), where something
    would compare them piece by piece, or has them at other places (another prompt), where something would compare them place by place."""
    for stage in stages:
        module = workshop.data(stage.data) if getattr(stage, "sees", None) and stage.trainer is not None else None
        if module is None or module.aligned_by is None:
            continue
        objective, gap = build_objective(stage.objective), ["trainer.gap"] if stage.trainer.get("gap") else []
        terms = [term for term in objective.active if term.needs_teacher]
        keys = [f"objective.{term.name}" for term in terms if module.aligned_by not in term.may_want] + gap
        view = workshop.seen(stage.seen, module).view_of(module)
        inside = [path.rpartition(".")[0] for path in objective.captures("teacher").values()] + gap
        if inside and view.displaced:
            raise UserError(
                f"{inside[0]} compares two networks at all places of a row, and the teacher reads other prompts (teacher.prompt)",
                "distributions can be compared, at the tokens of answers: objective=word_kd, reverse_kl, jsd, skewed",
            )
        if keys and view.aligned:
            raise UserError(
                f"{keys[0]} compares two networks token by token, and the teacher cuts texts into other tokens (teacher.data)",
                "objectives for that: uld (sorted probabilities), aligned_kd (pieces of text that both have)",
            )


def _check_splits(module: Any) -> None:
    """Raises UserError where nothing could be held out of the training samples to choose or to judge by."""
    sizes = module.spec.sizes
    empty = [split for split in ("val", "test") if sizes.get(split) == 0]
    if empty and sizes.get("train"):
        counts = ", ".join(f"{sizes[split]:,} {split}" for split in ("train", "val", "test") if split in sizes)
        raise UserError(
            f"{module.spec.name}: no samples for {' and '.join(empty)} ({counts})",
            "they are held out of training, where a class has more than one; bring more samples, or these splits",
            *filter(None, [module.domain.sampled]),
        )


def check_builds(stages: list[Any], module: Any, hardware: dict[str, Any]) -> None:
    """Networks with a forward pass, optimizers, schedules, objectives and metrics of all stages on the data of `module`.

    stages: as strategies ask for them (lab.stages). Raises UserError for what cannot be built, and for
    a term of an objective that these data, or this task, have nothing for.
    """
    if any(stage.trainer is not None for stage in stages):
        _check_splits(module)
    networks: dict[str, nn.Module] = {}
    done: set[str] = set()
    given: dict[frozenset[str], set[str] | None] = {}
    for stage in stages:
        trainer, nodes = stage.trainer, stage.networks
        for node in nodes:
            networks.setdefault(key := json.dumps(node, sort_keys=True), None)
            networks[key] = networks[key] or network_of(node, module.spec)
        network = networks[json.dumps(nodes[0], sort_keys=True)]
        teachers = [teacher.stage.learner["network"] for teacher in getattr(stage, "teachers", ())]
        parts = [nodes[0], trainer, stage.objective, stage.metrics, teachers]
        if trainer is None or (kind := json.dumps(parts, sort_keys=True)) in done:
            continue
        done.add(kind)
        check_groups(trainer, [networks[json.dumps(node, sort_keys=True)] for node in nodes])
        _unscaled(
            _optimizer(trainer, hardware["device"] if hardware["device"] in available() else "cpu"), trainer, hardware
        )
        task = module.task(trainer.get("decoding"), stage.metrics)
        monitored(trainer, task)
        if stage.objective is None:
            continue
        task.collection()
        schedule(trainer["schedule"], trainer["epochs"], 1)(0)
        select_parts(network, trainer.get("parts"))
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        objective = build_objective(stage.objective)
        written = "reward" in getattr(stage, "rollout", {})
        if written:
            _check_reward(stage.rollout, task)
        _has_positions(objective, module, written)
        _takes_mixed(objective, module)
        _shows_views(objective, stage, module)
        _wire(objective, stage, network, task, module)
        if objective.wanted not in given:
            given[objective.wanted] = _given(objective, network, task, module.spec)
        for term in objective.active if given[objective.wanted] is not None else ():
            _has_tensors(term, given[objective.wanted] | set(policy.GIVES if written else ()), module.domain)
        _options_allowed(objective, module.spec)


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield losses.present(node["_target_"])
        for value in node.values():
            yield from _names(value)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _names(item)


def network_of(node: dict[str, Any], spec: Any) -> nn.Module:
    """The network without memory for its weights; with it where its code asks for values, which the meta device lacks."""
    try:
        with torch.device("meta"):
            return build_network(node, spec, 0)
    except Exception:  # perhaps the meta device alone is at fault: the real one tells
        try:
            return build_network(node, spec, 0)
        except UserError as error:
            place = place_of(error.__cause__) if error.__cause__ else ""
            raise UserError(*error.lines, *([place] if place else [])) from error
        except Exception as error:
            raise broken(f"cannot build {node['_target_']}", error) from error


def _optimizer(trainer: dict[str, Any], device: str) -> torch.optim.Optimizer:
    node, groups = trainer["optimizer"], trainer.get("groups") or {}
    params = [nn.Parameter(torch.zeros(2, 2, device=device)) for _ in ("", *groups)]
    try:
        optimizer = targets.build(
            node, "optimizer", params=[{"params": [each]} for each in params] if groups else params
        )
    except UserError:
        raise
    except Exception as error:
        raise broken(f"cannot build the optimizer {node['_target_']}", error) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"{node['_target_']} gave a {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    if any("lr" not in group for group in optimizer.param_groups):
        raise UserError(f"{node['_target_']} has no learning rate lr, which the schedule changes")
    check_optimizer(optimizer, node, groups)
    return optimizer


def _unscaled(optimizer: torch.optim.Optimizer, trainer: dict[str, Any], hardware: dict[str, Any]) -> None:
    """Raises UserError for an optimizer of several passes in fp16, where the scaler of the losses takes the step."""
    if hardware.get("precision") == "fp16" and wants_closure(optimizer):
        raise UserError(
            f"{trainer['optimizer']['_target_']} computes several gradients a step, which hardware.precision=fp16 has no way for",
            "give hardware.precision=bf16 or fp32, or another optimizer",
        )


def _takes_mixed(objective: Objective, module: Any) -> None:
    """Raises UserError for a term that would take the label of a mixed sample for the whole of it."""
    for term in objective.active if module.mixes else ():
        if term.needs_labels and "mixed_targets" not in term.may_want:
            raise UserError(
                f"objective.{term.name} takes one label for each sample, and data.augment.mixup and cutmix mix two",
                "terms for that: ce, and those that compare networks alone (kd, dist, features)",
            )


def _shows_views(objective: Objective, stage: Any, module: Any) -> None:
    """Raises UserError for a term over a further view of each sample that batches do not have, or that a teacher has no way to see."""
    for view, term in objective.views.items():
        if view not in module.further_views:
            raise UserError(*no_view(term, view))
        if getattr(stage, "sees", None):
            raise UserError(
                f"objective.{term}.view={view}: a teacher that sees samples otherwise than its student has the first view alone"
            )


def _check_reward(rollout: dict[str, Any], task: Any) -> None:
    """Calls a reward function with what stands in the data in place of what a student writes, then with the beginnings of these texts, and with
    nothing, as students write. Raises UserError where it fails, and where it does not give a finite number for each text."""
    reward, columns = policy.Reward(rollout["reward"]), task.references(TRIED, rollout["prompt"])
    begun = [text[: len(text) * place // TRIED] for place, text in enumerate(columns["texts"])]
    for texts in (columns["texts"], begun):
        reward({**columns, "texts": texts})


def _has_positions(objective: Objective, module: Any, written: bool = False) -> None:
    """Raises UserError for a term over positions (image slots, say) that the training data have none of. written: batches are of texts that
    the student writes, which are rewarded."""
    counts = {**module.positions(), **({"rewarded": 1} if written else {})}
    for term in objective.active:
        if not counts.get(term.over):
            what = {"visual_mask": "positions of images", "images": "images"}.get(term.over, term.over)
            raise UserError(
                f"objective.{term.name} is over {what}, and the training data of {module.spec.name} have none",
                f"to leave it out: '~objective.{term.name}' or objective.{term.name}.weight=0",
            )


def _options_allowed(objective: Objective, spec: Any) -> None:
    """Raises UserError for an option that a loss of kdrun's refuses (a temperature of 0): losses of logits are called on made-up ones."""
    if not spec.distribution:
        return
    classes = spec.vocabulary if spec.per_position else spec.outputs
    logits = {"student_logits": (2, classes), "teacher_logits": (2, classes), "student_steps": (2, 2, classes)}
    random = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=random) for name, shape in logits.items()}
    made |= {"targets": torch.tensor([0, 1]), "step": 0, "epoch": 0}
    for term in objective.active:
        if term.shipped and term.pairs is None and not isinstance(term.function, type) and made.keys() >= {*term.wants}:
            _tried(term, made)


def _shapes_allowed(objective: Objective, student: Shapes, teachers: Sequence[Shapes]) -> None:
    """Raises UserError for what a loss of kdrun's on the inside refuses of the shapes that it will get (a number of heads): those that need
    nothing else, and no adaptor, are called on made-up tensors of them."""
    for term in objective.active:
        alone = not {*term.wants} - {"step", "epoch"} and not isinstance(term.function, type) and not term.pointwise
        if term.shipped and alone and term.pairs and term.pairs.adaptor == term.pairs.resize == "none":
            sides = (
                (term.pairs.student, student),
                *((term.pairs.teacher, shapes) for shapes in (teachers or [{}])[:1]),
            )
            made = [[torch.zeros(2, *shape) for path in paths for shape in shapes[path]] for paths, shapes in sides]
            _tried(term, {"captured": made, "step": 0, "epoch": 0})


def _tried(term: Any, tensors: dict[str, Any]) -> None:
    """Raises UserError with the key of a term that refuses these tensors, or its options."""
    try:
        term(tensors, None)
    except ValueError as error:
        raise UserError(f"objective.{term.name}: {error}") from error


def _wire(objective: Objective, stage: Any, network: nn.Module, task: Any, module: Any) -> None:
    """Raises UserError for a module path that a network lacks, for features that do not go together, and for a term's class that
    cannot be made."""
    captures = objective.captures("teacher")
    if captures and stage.teaching.get("source") == "cached":
        raise UserError(
            f"teacher.source=cached: what {next(iter(captures.values())).rpartition('.')[0]} captures of the teacher is not kept",
            "give teacher.source=online",
        )
    task.prepare(objective.wanted)
    student = shapes_of(network, objective, "student", task, module.spec)
    if stage.sees and captures:  # of data that are not here
        return
    try:
        teachers = [dry_shapes(node, objective, "teacher", task, module.spec) for node in stage.teacher_networks]
        wire(
            objective,
            student,
            teachers,
            None,
            0,
            Length(1, 1),
            network=network,
            importance=None,
            **of_data(module, stage.trainer["batch_size"]),
        )
        if any(getattr(term.function, "reuses_classifier", False) for term in objective.active):
            reuse_classifier(objective, network, [network_of(node, module.spec) for node in stage.teacher_networks])
        _shapes_allowed(objective, student, teachers)
    except UserError:
        raise
    except Exception as error:
        raise broken("cannot make the terms of the objective", error) from error


def _has_tensors(term: Any, given: set[str], domain: Any) -> None:
    """Raises UserError for a term that wants what the task does not give; of one of kdrun's, with objectives that fit."""
    try:
        term.check_wants(given)
    except UserError as error:
        first = error.lines[0].replace("this task does not give", f"data.task={domain.name} does not give")
        fit = fitting(given) if term.shipped else []
        told = (f"objectives that fit: {listed(fit, MOST_NAMED)}",) if fit else error.lines[1:]
        raise UserError(first, *told) from error


def _given(objective: Objective, network: nn.Module, task: Any, spec: Any) -> set[str] | None:
    """Names of the tensors that a task gives to an objective; None where a blank input does not tell."""
    task.prepare(objective.wanted)
    batch: dict[str, Any] = defaultdict(lambda: torch.zeros(()))
    try:
        with torch.device(next(network.parameters()).device), torch.no_grad():
            prediction = task.predict(network.eval(), spec.blank().inputs)
            tensors = task.tensors(batch, prediction, prediction)
    except Exception:  # a blank input is not for every network; the first real batch will tell
        return None
    return {name for name, tensor in tensors.items() if tensor is not None}
