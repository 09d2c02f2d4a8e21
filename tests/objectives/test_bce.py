"""Terms of several labels a sample against loops over samples and labels."""

import math

import pytest
import torch

from kdrun.objectives.bce import bce
from kdrun.objectives.bernoulli_kd import bernoulli_kd


def logits(seed):
    return 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_bce_is_the_mean_over_labels():
    student, targets = logits(0), (logits(1) > 0).float()
    for row, (values, truths) in enumerate(zip(student.tolist(), targets.tolist(), strict=True)):
        terms = [-math.log(sigmoid(value if true else -value)) for value, true in zip(values, truths, strict=True)]
        assert bce(student, targets)[row].item() == pytest.approx(sum(terms) / 4, rel=1e-5)
    with pytest.raises(ValueError, match="disagree"):
        bce(student, targets[:, :3])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bernoulli_kd_is_the_divergence_of_each_label(temperature):
    student, teacher = logits(0), logits(1)
    found = bernoulli_kd(student, teacher, temperature=temperature)
    for row, (ours, theirs) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        total = 0.0
        for s, t in zip(ours, theirs, strict=True):
            q, p = sigmoid(s / temperature), sigmoid(t / temperature)
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert found[row].item() == pytest.approx(temperature**2 * total / 4, rel=1e-4)


def test_bernoulli_kd_of_two_classes_is_kd_of_the_pair():
    from kdrun.objectives.kd import kd

    student, teacher = logits(0)[:, :1], logits(1)[:, :1]
    pairs = [torch.cat([torch.zeros_like(one), one], 1) for one in (student, teacher)]
    assert torch.allclose(bernoulli_kd(student, teacher, temperature=2.0), kd(*pairs, temperature=2.0), atol=1e-6)


def test_equal_logits_give_nothing_and_the_teacher_has_no_gradient():
    student, teacher = (logits(0).requires_grad_() for _ in range(2))
    bernoulli_kd(student, teacher).sum().backward()
    assert student.grad.abs().max() < 1e-6 and teacher.grad is None
    assert bernoulli_kd(student, teacher).abs().max() < 1e-6
    large = torch.tensor([[90.0, -90.0]])
    assert torch.isfinite(bernoulli_kd(large, -large)).all()
