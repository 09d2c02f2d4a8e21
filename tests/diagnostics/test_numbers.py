"""Each number against one that is computed slowly, sample by sample, and against cases whose answer is known."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kdrun.diagnostics.numbers import (
    DRAWS,
    SHARE,
    agreement,
    bias_and_variance,
    divergence,
    gap,
    losses,
    rank,
    reconstructed_bound,
    sharpness,
)


def drawn(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def test_divergence_is_the_sum_over_classes_and_has_a_direction():
    student, teacher = drawn(7, 3), drawn(7, 3, seed=1)
    slow = 0.0
    for ours, theirs in zip(student.double().softmax(1).tolist(), teacher.double().softmax(1).tolist(), strict=True):
        slow += sum(p * math.log(p / q) for p, q in zip(ours, theirs, strict=True)) / 7
    assert divergence(student, teacher) == pytest.approx(slow)
    assert divergence(teacher, student) != pytest.approx(slow, rel=1e-3)
    assert divergence(student, student + 3.0) == pytest.approx(0.0, abs=1e-12)


def test_losses_are_clipped():
    found = losses(torch.tensor([[0.0, 100.0], [0.0, 0.0]]), torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([5.0, math.log(2)])


def test_the_variance_of_a_gap_is_that_of_bootstrap_draws():
    train, test = drawn(40).abs().flatten().double(), drawn(30, seed=1).abs().flatten().double()
    found, random = gap(train, test), np.random.default_rng(0)
    draws = [
        np.mean(random.choice(test.numpy(), len(test))) - np.mean(random.choice(train.numpy(), len(train)))
        for _ in range(4_000)
    ]
    assert found["variance"] == pytest.approx(np.var(draws), rel=0.1)
    assert found["gap"] == pytest.approx(float(test.mean() - train.mean()))


def test_the_bound_grows_with_the_root_of_the_divergence():
    teacher, student = {"gap": 0.5, "variance": 0.02}, {"gap": 0.6}
    assert reconstructed_bound(teacher, student, 0.0) == pytest.approx({"bound": 0.5, "slack": -0.1})
    once, four = (reconstructed_bound(teacher, student, k)["bound"] - 0.5 for k in (0.25, 1.0))
    assert (once, four) == pytest.approx((0.1, 0.2))


def test_agreement_counts_every_case():
    def said(*classes):
        return functional.one_hot(torch.tensor(classes), 3).float()

    found = agreement(said(0, 1, 0, 1, 2, 0, 1), said(0, 0, 2, 1, 2, 1, 1), torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    assert {name: round(7 * value) for name, value in found.items()} == {
        "disagree": 3, "both_right": 1, "only_student": 1, "only_teacher": 1, "same_wrong": 3, "different_wrong": 1,
    }  # fmt: skip


@pytest.mark.parametrize("true", [1, 3])
def test_rank_of_features_that_have_one(true):
    basis = torch.linalg.qr(drawn(8, 8).double())[0][:, :true]
    scores = torch.linalg.qr(drawn(50, true, seed=1).double() - drawn(50, true, seed=1).double().mean(0))[0]
    features = scores @ basis.T + 7.0  # orthogonal directions of one length, around another mean
    found = rank(features)
    assert (found["width"], found["rank"]) == (8, true)
    assert found["effective"] == pytest.approx(true, rel=1e-6)


def test_features_that_never_differ_have_no_rank():
    assert rank(torch.full((9, 4), 0.1)) == {"width": 4, "rank": 0, "effective": 0.0}


def test_bias_and_variance_add_up_to_the_loss():
    members = [drawn(7, 3, seed=seed) for seed in range(4)]
    found = bias_and_variance(members, TARGETS)
    assert found["loss"] == pytest.approx(found["bias"] + found["variance"])
    slow = np.mean([functional.cross_entropy(one.double(), TARGETS).item() for one in members])
    assert found["loss"] == pytest.approx(slow) and found["members"] == 4
    # No other centre has less variance.
    best = sum(divergence(sum(members) / 4, one) for one in members) / 4
    assert found["variance"] == pytest.approx(best)
    other = sum(divergence(sum(members) / 4 + 0.1 * drawn(7, 3, seed=9), one) for one in members) / 4
    assert other > best
    assert bias_and_variance(members[:1] * 3, TARGETS)["variance"] == pytest.approx(0.0, abs=1e-12)


class Quadratic(nn.Module):
    """L(w) = sum of curvature * w^2 / 2."""

    def __init__(self, curvature):
        super().__init__()
        self.one = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.two = nn.Parameter(torch.tensor([[1.0], [2.0]]))
        self.curvature = curvature

    def loss(self):
        return self.curvature * ((self.one**2).sum() + (self.two**2).sum()) / 2


def test_sharpness_of_a_quadratic_is_known():
    network = Quadratic(10.0).requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    found = sharpness(network, network.loss)
    # Expected rise: curvature / 2 times the squared length, 0.01 of each norm; its deviation over draws has a part from the slope.
    length = SHARE * math.sqrt(30.0)
    rise = 10.0 * length**2 / 2
    slope = (
        10.0 * SHARE * math.sqrt((25 * 25 / 2) + (5 * 5 / 2))
    )  # deviation of w . d, with d of variance (SHARE |w|)^2 / 2
    assert abs(found["gaussian"] - rise) < 4 * slope / math.sqrt(DRAWS)
    assert found["ascent"] == pytest.approx(10.0 * (math.sqrt(30.0) * length + length**2 / 2), rel=1e-4)
    assert found == sharpness(network, network.loss)  # the same draws
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert not any(each.requires_grad for each in network.parameters())
    flat = Quadratic(1.0)
    assert sharpness(flat, flat.loss)["ascent"] == pytest.approx(found["ascent"] / 10, rel=1e-3)


def test_sharpness_where_there_is_no_slope():
    network = nn.Linear(2, 2)
    found = sharpness(network, lambda: 0.0 * sum(each.sum() for each in network.parameters()))
    assert found == {"gaussian": 0.0, "ascent": 0.0}
