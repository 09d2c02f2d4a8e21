"""What connects an objective with the networks of one stage: captures, adaptors, and terms that have state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from kdrun.domains.task import Prediction
from kdrun.learning import seeds
from kdrun.learning.adaptor import Adaptors, Shapes, captured_at, make_adaptors
from kdrun.networks.build import build_network, seeded
from kdrun.networks.capture import OUTPUT, Capture, classifier
from kdrun.networks.modes import evaluating
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError
from kdrun.term_weights import Length


def capture_of(network: nn.Module, objective: Objective, who: str) -> Capture | None:
    """What an objective captures of the modules of the "student" or the "teacher"; None for nothing."""
    patterns = {path: key for path, key in objective.captures(who).items() if not path.startswith(OUTPUT)}
    return Capture(network, patterns) if patterns else None


def predicted(
    task: Any,
    network: nn.Module,
    inputs: Any,
    capture: Capture | None,
    execution: Callable[[], AbstractContextManager[None]] | None = None,
) -> Prediction:
    """A forward pass, with what is captured in it. execution: what it is computed in (see execution.Execution)."""
    if execution is not None:
        with execution():
            return predicted(task, network, inputs, capture)
    if capture is None:
        return task.predict(network, inputs)
    prediction, prediction.captured = capture.of(lambda: task.predict(network, inputs))
    return prediction


def shapes_of(network: nn.Module, objective: Objective, who: str, task: Any, spec: Any) -> Shapes:
    """Shapes of what an objective captures of a network, by a dry forward pass on blank inputs, where its parameters are.

    Raises UserError for a path that the network lacks, with the nearest ones.
    """
    paths = objective.captures(who)
    if not paths:
        return {}
    capture = capture_of(network, objective, who)
    with torch.device(next(network.parameters()).device), torch.no_grad(), evaluating(network):
        prediction = predicted(task, network, spec.blank().inputs, capture)
    return {
        path: [tuple(tensor.shape[1:]) for tensor in captured_at(path, prediction, key)] for path, key in paths.items()
    }


def dry_shapes(node: dict[str, Any], objective: Objective, who: str, task: Any, spec: Any) -> Shapes:
    """As `shapes_of`, of a network that is built for it without memory for its weights, where it can be."""
    if not objective.captures(who):
        return {}
    try:
        with torch.device("meta"):
            network = build_network(node, spec, 0)
        return shapes_of(network, objective, who, task, spec)
    except Exception:  # perhaps the meta device alone is at fault: the real one tells
        return shapes_of(build_network(node, spec, 0), objective, who, task, spec)


def reuse_classifier(objective: Objective, student: nn.Module, teachers: Sequence[nn.Module]) -> None:
    """Gives the student's last linear layer the weights of the teacher's, and holds them, where a term says that it is so
    (`function.reuses_classifier = True`). Raises UserError where the layers are of unlike sizes."""
    terms = [term for term in objective.active if getattr(term.function, "reuses_classifier", False)]
    if not terms:
        return
    if len(teachers) != 1:
        raise UserError(
            f"objective.{terms[0].name}: the student has the last layer of one teacher, here are {len(teachers)}"
        )
    teacher = teachers[0]
    ours, theirs = classifier(student), classifier(teacher)
    if ours.weight.shape != theirs.weight.shape:
        raise UserError(
            f"objective.{terms[0].name}: the last layer of {type(student).__name__} is {[*ours.weight.shape]} and that of "
            f"{type(teacher).__name__} {[*theirs.weight.shape]}; the student is to have the teacher's",
            f"student.network={{_target_: kdrun.networks.reused_classifier.ReusedClassifier, width: {theirs.in_features}, "
            "network: ..., maps: ...}",
        )
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        if theirs.bias is not None and ours.bias is not None:
            ours.bias.copy_(theirs.bias)
    ours.requires_grad_(False)


def of_data(module: Any, batch_size: int) -> dict[str, Any]:
    """What data give to classes of terms that ask for it by name (losses.SUPPLIED)."""
    return {
        "sample_ids": module.train_ids.sort().values,
        "classes": getattr(module.spec, "outputs", None),
        "batch_size": batch_size,
    }


def wire(
    objective: Objective,
    student: Shapes,
    teachers: Sequence[Shapes],
    features: tuple[int, Sequence[int]] | None,
    seed: int,
    length: Length | None = None,
    **supplied: Any,
) -> tuple[Objective, Adaptors | None]:
    """(the objective as it begins a stage, its adaptors), functions of the run's seed.

    student, teachers: see `shapes_of`; features: widths of the last layers' inputs (see adaptor.make_adaptors). length: of
    the stage. supplied: what classes of terms may ask for beside shapes (losses.SUPPLIED).
    """
    adaptors = make_adaptors(objective, student, teachers, features, seed)

    def of_term(term: Term) -> dict[str, Any]:
        if term.pairs is None:
            return supplied
        ours = [shape for path in term.pairs.student for shape in student[path]]
        theirs = [shape for path in term.pairs.teacher for shape in teachers[0][path]]
        if term.pairs.adapts:
            between = zip(adaptors.pairs[term.name], ours, theirs, strict=True)
            ours = [tuple(fit(torch.zeros(1, *own), torch.zeros(1, *other)).shape[1:]) for fit, own, other in between]
        return {**supplied, "student_shapes": ours, "teacher_shapes": theirs}

    with seeded(seeds.derive(seed, "objective")):
        return objective.begin(length, of_term), adaptors
