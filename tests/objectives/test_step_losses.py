"""Losses of networks with an answer at every step: slow references in Python numbers, gradients, and where they are 0."""

import math

import pytest
import torch
from loss_references import softmax

from kdrun.objectives.ela import ela
from kdrun.objectives.kd import kd
from kdrun.objectives.sta import WEIGHTS, sta, step_weights
from kdrun.objectives.step_ce import step_ce
from kdrun.objectives.step_kd import step_kd

TAU = 3.0


def given(samples=5, steps=4, classes=6, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "student_steps": (3 * torch.randn(samples, steps, classes, generator=draw, dtype=dtype)).requires_grad_(),
        "teacher_logits": 3 * torch.randn(samples, classes, generator=draw, dtype=dtype),
        "targets": torch.randint(classes, (samples,), generator=draw),
    }


def divergence(teacher, student):
    p, q = softmax([a / TAU for a in teacher]), softmax([a / TAU for a in student])
    return TAU**2 * math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slow_step_ce(steps, label):
    return -sum(math.log(softmax(step)[label]) for step in steps) / len(steps)


def slow_ela(steps, teacher, label):
    total = 0.0
    for step in steps:
        named, ours, theirs = max(range(len(step)), key=step.__getitem__), list(step), list(teacher)
        if named != label:
            ours[named] = step[label]
            theirs[label] = theirs[named] = min(teacher[label], teacher[named])
        total += divergence(theirs, ours)
    return total / len(steps)


def slow_sta(steps):
    def confidence(step):
        shares = softmax(step)
        return (math.log(len(step)) + math.fsum(p * math.log(p) for p in shares)) / math.log(len(step))

    def cosine(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for i, step in enumerate(steps):
        others = [j for j in range(len(steps)) if j != i]
        weights = softmax([confidence(steps[j]) * cosine(step, steps[j]) for j in others])
        mean = [math.fsum(w * steps[j][c] for w, j in zip(weights, others, strict=True)) for c in range(len(step))]
        total += divergence(mean, step)
    return total / len(steps)


def test_each_equals_its_slow_reference():
    tensors = given()
    steps, teacher, labels = (tensors[name].tolist() for name in ("student_steps", "teacher_logits", "targets"))
    rows = list(zip(steps, teacher, labels, strict=True))
    close = {"rtol": 1e-12, "atol": 1e-12}
    taught = {name: tensors[name] for name in ("student_steps", "teacher_logits")}
    for values, wanted in (
        (step_ce(tensors["student_steps"], tensors["targets"]), [slow_step_ce(row, label) for row, _, label in rows]),
        (ela(**tensors), [slow_ela(*row) for row in rows]),
        (sta(tensors["student_steps"]), [slow_sta(row) for row in steps]),
        (step_kd(**taught), [sum(divergence(their, row) for row in ours) / 4 for ours, their, _ in rows]),
    ):
        torch.testing.assert_close(values.detach(), torch.tensor(wanted, dtype=torch.float64), **close)


@pytest.mark.parametrize("loss", [ela, lambda student_steps, **_: sta(student_steps)], ids=["ela", "sta"])
def test_gradients_are_those_of_differences(loss):
    tensors = given(samples=2)
    weights = step_weights(tensors["student_steps"].detach(), "reliable") @ tensors["student_steps"].detach()

    def total(steps):
        if loss is ela:
            return ela(**{**tensors, "student_steps": steps}).sum()
        return step_kd_to(steps, weights)

    def step_kd_to(steps, targets):  # what sta is where its targets are constants
        from kdrun.objectives.divergences import of_logits

        return of_logits(steps, targets, "forward", TAU).mean(1).sum()

    loss(**tensors).sum().backward()
    assert torch.autograd.gradcheck(total, (tensors["student_steps"].detach().requires_grad_(),))
    wanted = tensors["student_steps"].detach().requires_grad_()
    total(wanted).backward()
    torch.testing.assert_close(tensors["student_steps"].grad, wanted.grad)


def test_right_steps_are_plain_distillation_and_a_wrong_one_leaves_its_pair_alone():
    tensors = given(samples=8, steps=1)
    steps = tensors["student_steps"]
    named = steps.detach().argmax(-1).flatten()
    plain = kd(steps[:, 0], tensors["teacher_logits"], temperature=TAU)
    torch.testing.assert_close(ela(steps, tensors["teacher_logits"], named), plain)
    labels = (named + 1) % 6
    ela(steps, tensors["teacher_logits"], labels).sum().backward()
    rows = torch.arange(8)
    assert (steps.grad[rows, 0, named] == 0).all()  # the copied entry's gradient is the label's
    assert (steps.grad[rows, 0, labels] != 0).all()
    changed = steps.detach().clone()
    changed[rows, 0, named] += 1  # as long as it is the largest its size says nothing
    before, after = (ela(x, tensors["teacher_logits"], labels) for x in (steps.detach(), changed))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_rows_of_weights_sum_to_one_and_equal_steps_teach_nothing(weights):
    steps = given()["student_steps"].detach()
    found = step_weights(steps, weights)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, 4, dtype=torch.float64))
    assert weights == "average" or (found.diagonal(dim1=1, dim2=2) == 0).all()
    same = steps[:, :1].expand(-1, 4, -1)
    torch.testing.assert_close(sta(same, weights=weights), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (sta(steps, weights=weights) > 0).all()


def test_one_step_has_nobody_to_learn_from():
    value = sta(given(steps=1)["student_steps"])
    assert value.shape == (5,) and (value == 0).all() and not value.requires_grad  # such a term stops a run at once


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_are_finite_and_a_shift_changes_nothing(dtype):
    tensors = given(dtype=dtype)
    extreme = {**tensors, "student_steps": tensors["student_steps"].detach() * 300}
    for loss in (
        lambda student_steps, teacher_logits, targets: ela(student_steps, teacher_logits, targets),
        lambda student_steps, teacher_logits, targets: step_kd(student_steps, teacher_logits),
        lambda student_steps, teacher_logits, targets: step_ce(student_steps, targets),
        lambda student_steps, teacher_logits, targets: sta(student_steps),
    ):
        assert loss(**extreme).isfinite().all() and loss(**extreme).dtype == torch.float32
    wide = given()
    shifted = {**wide, "teacher_logits": wide["teacher_logits"] + 7}
    torch.testing.assert_close(ela(**wide), ela(**shifted))


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="weights must be one of reliable"):
        sta(given()["student_steps"], weights="best")
