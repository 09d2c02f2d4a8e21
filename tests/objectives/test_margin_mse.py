"""Margins of scores against plain Python, their gradients, and what changes nothing."""

import pytest
import torch

from kdrun.objectives.margin_mse import margin_mse
from kdrun.objectives.terms import build_objective


def scores(queries=6, passages=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(queries, passages, generator=generator, dtype=dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def slow(student, teacher):
    margins = [[row[0] - other for other in row[1:]] for row in (student, teacher)]
    return sum((a - b) ** 2 for a, b in zip(*margins, strict=True)) / len(margins[0])


@pytest.mark.parametrize("passages", [2, 5])
def test_values_are_those_of_plain_python(passages):
    student, teacher = scores(passages=passages)
    expected = [slow(*rows) for rows in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert margin_mse(student, teacher).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_constant_of_a_query_changes_nothing_and_equal_margins_give_nothing():
    student, teacher = scores()
    moved = student.detach() + torch.linspace(-50, 50, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(margin_mse(moved, teacher - 7.0), margin_mse(student, teacher))
    assert margin_mse(teacher + 3.0, teacher).abs().max() < 1e-20


def test_gradient_is_the_derivative_of_the_value_and_the_teacher_is_a_constant():
    student, teacher = scores()
    assert torch.autograd.gradcheck(lambda x: margin_mse(x, teacher), student)
    margin_mse(student, teacher.requires_grad_()).sum().backward()
    assert student.grad.any() and teacher.grad is None


def test_padding_and_parts_of_a_batch_change_nothing():
    student, teacher = (x.detach().view(2, 3, 4) for x in scores())
    mask = torch.tensor([[True, True, False], [True, False, False]])
    objective = build_objective({"margin_mse": {}})
    tensors = {"student_outputs": student, "teacher_outputs": teacher, "mask": mask}
    whole = objective(tensors, 3)[0].item()
    junk = {**tensors, "teacher_outputs": teacher.masked_fill(~mask[..., None], torch.nan)}
    assert objective(junk, 3)[0].item() == pytest.approx(whole, rel=1e-6)
    parts = sum(objective({name: x[row] for name, x in tensors.items()}, 3)[0].item() for row in ([0], [1]))
    assert parts == pytest.approx(whole, rel=1e-6)


def test_large_scores_in_bfloat16_are_finite_and_a_single_score_has_no_margin():
    student, teacher = (x.detach().to(torch.bfloat16) * 1e18 for x in scores())
    values = margin_mse(student, teacher)
    assert values.dtype == torch.float32 and values.isfinite().all()
    with pytest.raises(ValueError, match="two passages and more"):
        margin_mse(torch.zeros(3, 1), torch.zeros(3, 1))
