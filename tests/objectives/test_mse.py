"""Squared errors of a regression against plain Python, their gradients, and what they refuse."""

import pytest
import torch

from kdrun.objectives.mse import mse
from kdrun.objectives.mse_kd import mse_kd
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError


def outputs(count=6, width=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator, requires_grad=True) for _ in range(2)]


def test_values_are_those_of_plain_python():
    student, teacher = outputs()
    targets = torch.arange(6.0)
    expected = [(s - y) ** 2 for (s,), y in zip(student.tolist(), targets.tolist(), strict=True)]
    assert mse(student, targets).tolist() == pytest.approx(expected, rel=1e-6)
    student, teacher = outputs(width=3)
    expected = [
        sum((s - t) ** 2 for s, t in zip(*rows, strict=True)) / 3
        for rows in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert mse_kd(student, teacher).tolist() == pytest.approx(expected, rel=1e-6)


def test_equal_outputs_give_exactly_nothing_and_the_teacher_is_a_constant():
    student, teacher = outputs()
    mse_kd(student, teacher).sum().backward()
    assert teacher.grad is None
    assert torch.allclose(student.grad, 2 * (student - teacher).detach())
    same = student.detach().clone().requires_grad_()
    values = mse_kd(same, same.detach())
    values.sum().backward()
    assert not values.count_nonzero() and not same.grad.count_nonzero()
    assert not mse(student, student.detach()[:, 0]).count_nonzero()


def test_half_precision_is_computed_in_float32():
    large = torch.full((1, 1), 300.0, dtype=torch.float16)
    assert mse_kd(large, -large).item() == mse(large, -large[:, 0]).item() == 600.0**2


def test_shapes_that_would_broadcast_are_refused():
    student, teacher = outputs()
    with pytest.raises(ValueError, match=r"\(6, 1\) and targets \(6, 1\) disagree"):
        mse(student, teacher)
    with pytest.raises(ValueError, match=r"\(6, 2\) and targets \(6,\) disagree"):
        mse(torch.zeros(6, 2), torch.zeros(6))
    with pytest.raises(ValueError, match=r"\(6, 1\) and teacher_outputs \(5, 1\) disagree"):
        mse_kd(student, teacher[:5])


def test_both_terms_together_and_a_term_of_classes_beside_them():
    student, teacher = outputs()
    tensors = {"student_outputs": student, "teacher_outputs": teacher, "targets": torch.arange(6.0), "mask": None}
    objective = build_objective({"mse": {"weight": 0.5}, "mse_kd": {"weight": 2.0}})
    total, raw = objective(tensors, 6)
    assert objective.needs_teacher
    assert total.item() == pytest.approx(0.5 * raw["mse"].item() + 2 * raw["mse_kd"].item())
    assert raw["mse"].item() == pytest.approx(mse(student, tensors["targets"]).mean().item())
    with pytest.raises(UserError, match=r"objective.kd wants student_logits, teacher_logits, which this task does not"):
        build_objective({"kd": {"weight": 1.0}})(tensors, 6)
