"""The distance of features against plain Python, its gradients, and what it refuses."""

import math

import pytest
import torch

from kdrun.objectives.feature import feature
from kdrun.objectives.hint import hint


def slow(student: list[float], teacher: list[float], norm: str) -> float:
    if norm == "l2":
        student, teacher = ([value / math.hypot(*row) for value in row] for row in (student, teacher))
    squares = [(s - t) ** 2 for s, t in zip(student, teacher, strict=True)]
    return math.fsum(squares) if norm == "l2" else math.fsum(squares) / len(squares)


def rows(count=6, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, width, generator=generator, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("norm", ["none", "l2"])
def test_values_are_those_of_plain_python(norm):
    student, teacher = rows()
    found = feature(student, teacher, norm=norm)
    expected = [slow(s, t, norm) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("norm", ["none", "l2"])
def test_equal_features_give_exactly_nothing_and_the_teacher_is_a_constant(norm):
    student, teacher = rows()
    feature(student, teacher, norm=norm).sum().backward()
    assert teacher.grad is None and bool(student.grad.abs().sum() > 0)
    same = student.detach().clone().requires_grad_()
    values = feature(same, same.detach(), norm=norm)
    values.sum().backward()
    assert not values.count_nonzero() and not same.grad.count_nonzero()


def test_l2_does_not_depend_on_lengths():
    student, teacher = rows()
    assert torch.allclose(
        feature(3 * student, 0.1 * teacher, norm="l2"), feature(student, teacher, norm="l2"), atol=1e-6
    )
    cosine = torch.nn.functional.cosine_similarity(student, teacher)
    assert torch.allclose(feature(student, teacher, norm="l2"), 2 - 2 * cosine, atol=1e-6)


def test_half_precision_is_computed_in_float32():
    large = torch.full((1, 4), 300.0, dtype=torch.float16)
    assert feature(large, -large).item() == 600.0**2


def test_what_is_refused():
    student, teacher = rows()
    with pytest.raises(ValueError, match=r"\(6, 5\).*\(6, 4\)"):
        feature(student, teacher[:, :4])
    with pytest.raises(ValueError, match="none, l2"):
        feature(student, teacher, norm="l1")


def test_a_hint_is_the_mean_squared_error_of_each_sample():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    slow = [
        math.fsum((s - t) ** 2 for s, t in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 16
        for a, b in zip(student, teacher, strict=True)
    ]
    assert hint(student, teacher).tolist() == pytest.approx(slow, rel=1e-5)
    assert hint(student, student).tolist() == [0.0] * 3
    with pytest.raises(ValueError, match="disagree"):
        hint(student, teacher[:, :2])
