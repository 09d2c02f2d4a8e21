"""One gradient step: optimizers of two passes, rollouts, and how far it is from the shell to the loss."""

from __future__ import annotations

import copy
import os
import traceback

import pytest
import torch
from torch import nn

import kdrun
from kdrun import slots
from kdrun.cli import main
from kdrun.learning.backend import Backend, wants_closure
from kdrun.learning.firststep import NoEffect
from kdrun.learning.step import train_step
from kdrun.objectives.terms import build_objective
from kdrun.term_weights import Length


class Rows:
    """A task whose batch is {"inputs", "targets", "size"}."""

    def predict(self, network, inputs):
        return network(inputs)

    def tensors(self, batch, prediction, taught):
        return {"student_logits": prediction, "teacher_logits": taught, "targets": batch["targets"]}


class Constant:
    def outputs(self, part, step=0):
        return part["inputs"][:, :3] * 2


class Sharp(torch.optim.SGD):
    """Sharpness-aware minimisation (arXiv 2010.01412) with an ascent of a fixed length."""

    passes = 2

    def step(self, closure=None):
        closure()
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
        ascent = [0.05 * parameter.grad / norm for parameter in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, ascent)
        closure()
        with torch.no_grad():
            torch._foreach_sub_(parameters, ascent)
        return super().step()


def batch_of(rows=6):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, 4, generator=generator)
    return {"inputs": inputs, "targets": torch.arange(rows) % 3, "size": rows}


def stepped(optimizer, objective=None, rollout=None, batch=None, teacher=None, **options):
    """(values, student) after one step."""
    torch.manual_seed(0)
    student = nn.Linear(4, 3)
    backend = Backend(Rows(), student, **options)
    backend.trained, backend.rollout = [list(student.parameters())], rollout
    chosen = optimizer(student.parameters())
    backend.closure = wants_closure(chosen)
    values = train_step(
        student, teacher, build_objective(objective or {"ce": {}}), batch or batch_of(), chosen, 0, backend
    )
    return [float(value) for value in values], student


def gradient(student):
    return torch.cat([parameter.grad.flatten() for parameter in student.parameters()])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_sharpness_aware_step_uses_the_gradient_of_where_it_climbed_to(accumulate):
    values, student = stepped(lambda parameters: Sharp(parameters, lr=0.5), accumulate=accumulate)
    plain, start = stepped(lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    assert values == pytest.approx(plain)  # those of the weights before the step
    climbed, batch = copy.deepcopy(start), batch_of()
    with torch.no_grad():
        for parameter, slope in zip(climbed.parameters(), start.parameters(), strict=True):
            parameter += 0.05 * slope.grad / gradient(start).norm()
    climbed.zero_grad()
    torch.nn.functional.cross_entropy(climbed(batch["inputs"]), batch["targets"]).backward()
    for new, old, other in zip(student.parameters(), start.parameters(), climbed.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.5 * other.grad)


def test_an_optimizer_whose_closure_has_no_default_is_given_one():
    _, student = stepped(lambda parameters: torch.optim.LBFGS(parameters, max_iter=5))
    before, _ = stepped(lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    batch = batch_of()
    assert torch.nn.functional.cross_entropy(student(batch["inputs"]), batch["targets"]) < before[-1]


def test_a_rollout_comes_before_the_teacher_is_asked():
    def rollout(student, batch, teacher):
        return {**batch, "inputs": student(batch["inputs"]).detach().repeat(1, 2)[:, :4]}

    objective = {"kd": {}}
    values, student = stepped(
        lambda parameters: torch.optim.SGD(parameters, lr=0.0), objective, rollout, teacher=Constant()
    )
    other, _ = stepped(
        lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        objective,
        batch=rollout(student, batch_of(), None),
        teacher=Constant(),
    )
    assert values == other and values[0] > 0


@pytest.mark.parametrize(
    ("weight", "asked"),
    [
        ({"step": {"from": 0, "to": 1, "at": 2}}, [2, 3]),
        ({"step": {"from": 1, "to": 0, "at": 2}}, [0, 1]),
        ({"step": {"from": 0, "to": 1, "at": 1, "unit": "epoch"}}, [3]),
        ({"linear": {"from": 0, "to": 1, "steps": 4}}, [1, 2, 3]),
        (0.0, []),
        (0.5, [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_a_teacher_is_asked_only_in_steps_in_which_a_term_with_weight_needs_it(weight, asked):
    steps = []

    class Counting(Constant):
        def outputs(self, part, step=0):
            steps.append(step)
            return super().outputs(part, step)

    torch.manual_seed(0)
    student = nn.Linear(4, 3)
    backend, teacher = Backend(Rows(), student), Counting()
    backend.trained = [list(student.parameters())]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    objective = build_objective({"ce": {}, "kd": {"weight": weight}}).begin(Length(4, 3))
    for step in range(4):
        values = train_step(student, teacher, objective, batch_of(), optimizer, step, backend)
        assert len(values) == (2 if weight == 0.0 else 3)
    assert steps == asked


def test_a_term_that_does_nothing_leaves_the_weights_as_they_were():
    objective = {"ce": {}, "none": {"_target_": "tests.learning.test_step.constant"}}
    torch.manual_seed(0)
    before = nn.Linear(4, 3).weight.clone()
    student = []

    def optimizer(parameters):
        student.extend(parameters)
        return torch.optim.SGD(student, lr=1.0)

    with slots.allowing(["tests"]), pytest.raises(NoEffect, match="none term"):
        stepped(optimizer, objective)
    assert torch.equal(student[0], before)


def constant(student_logits: torch.Tensor) -> torch.Tensor:
    return student_logits.detach()[:, 0]


FRAMES: list[str] = []


def looked(student_logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss that notes who called it."""
    package = os.path.dirname(kdrun.__file__) + os.sep
    inside = [frame for frame in traceback.extract_stack() if frame.filename.startswith(package)]
    FRAMES[:] = [f"{frame.filename.removeprefix(package)}: {frame.name}" for frame in inside]
    return torch.nn.functional.cross_entropy(student_logits, targets, reduction="none")


def test_from_the_shell_to_the_loss_it_is_not_far(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "strategy=vanilla data=digits teacher=mlp_64 student=mlp_16 strategy.controls=[] trainer.epochs=1 data.limit.train=200"
    words += " objective.looked._target_=tests.learning.test_step.looked objective.looked.weight=1 targets.tests=true"
    words += " card=false tracker=none hardware=cpu seed=0"
    assert main(words.split()) == 0
    from tests.learning.test_step import FRAMES

    assert FRAMES[0] == "cli.py: main" and FRAMES[-1] == os.path.join("objectives", "objective_term.py: __call__")
    assert len(FRAMES) <= 12, "\n".join(FRAMES)
