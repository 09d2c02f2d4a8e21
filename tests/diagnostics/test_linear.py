"""Cases in closed form: the linear Gaussian channel with its three costs, and ridge regression that teaches itself."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from kdrun.objectives.terms import build_objective

CLASSES, WIDTH, SAMPLES, NOISE, MEMBERS = 4, 6, 12, 0.5, 5


@pytest.fixture
def channel():
    """Inputs X [d, n], the true W* [k, d] of rank 2, and ridge teachers [M, k, d] of M sets of labels."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(WIDTH, SAMPLES))
    true = random.normal(size=(CLASSES, 2)) @ random.normal(size=(2, WIDTH))
    inverse = np.linalg.inv(inputs @ inputs.T + 2.0 * np.eye(WIDTH))
    labels = true @ inputs + NOISE * random.normal(size=(MEMBERS, CLASSES, SAMPLES))
    return inputs, true, labels @ inputs.T @ inverse


def costs(inputs, true, teachers, rank):
    """(bias, variance, bottleneck) of the teachers and of a student of this rank, in nats."""
    mean = teachers.mean(0)
    bias = np.sum(((mean - true) @ inputs) ** 2)
    variance = np.mean([np.sum(((one - mean) @ inputs) ** 2) for one in teachers])
    tail = np.sum(np.linalg.svd(mean @ inputs, compute_uv=False)[rank:] ** 2)
    return tuple(float(each) / (2 * NOISE**2) for each in (bias, variance, tail))


def normal(mean):
    mean = torch.as_tensor(mean).flatten()
    return MultivariateNormal(mean, NOISE**2 * torch.eye(len(mean), dtype=torch.float64))


def divergence(mean, other):
    return float(kl_divergence(normal(mean), normal(other)))


def best_of_rank(matrix, rank):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def test_bias_and_variance_are_the_mean_divergence_of_the_teachers(channel):
    inputs, true, teachers = channel
    bias, variance, _ = costs(inputs, true, teachers, CLASSES)
    slow = np.mean([divergence(one @ inputs, true @ inputs) for one in teachers])
    assert bias + variance == pytest.approx(slow) and bias > 0 and variance > 0


def test_the_mixture_of_teachers_is_below_bias_and_variance(channel):
    inputs, true, teachers = channel
    bias, variance, _ = costs(inputs, true, teachers, CLASSES)
    members = [normal(one @ inputs) for one in teachers]
    torch.manual_seed(0)
    drawn = torch.cat([one.sample((4000,)) for one in members])
    mixture = torch.logsumexp(torch.stack([one.log_prob(drawn) for one in members]), 0) - math.log(MEMBERS)
    gains = mixture - normal(true @ inputs).log_prob(drawn)
    error = float(gains.std()) / math.sqrt(len(gains))
    assert float(gains.mean()) + 4 * error < bias + variance
    assert float(gains.mean()) > bias + variance - math.log(MEMBERS) - 4 * error  # a mixture of M gains log M at most


@pytest.mark.parametrize("rank", range(1, CLASSES + 1))
def test_the_three_costs_sum_to_the_bound(channel, rank):
    """What the teachers are away from the truth, and what the best student of a rank is away from their mean."""
    inputs, true, teachers = channel
    bias, variance, bottleneck = costs(inputs, true, teachers, rank)
    mean = teachers.mean(0) @ inputs
    student = best_of_rank(mean, rank)
    bound = np.mean([divergence(one @ inputs, true @ inputs) for one in teachers]) + divergence(student, mean)
    assert bias + variance + bottleneck == pytest.approx(bound)
    random = np.random.default_rng(rank)
    for _ in range(20):  # no other student of this rank is nearer
        other = student + 0.1 * random.normal(size=student.shape)
        assert divergence(best_of_rank(other, rank), mean) >= divergence(student, mean) - 1e-9


def test_cost_jumps_below_the_rank_of_the_truth(channel):
    inputs, true, _ = channel
    tails = [costs(inputs, true, true[None], rank)[2] for rank in range(1, CLASSES + 1)]
    assert tails[0] > 1.0 and tails[1:] == pytest.approx([0.0] * (CLASSES - 1), abs=1e-9)


def test_variance_falls_with_the_number_of_teachers(channel):
    """The mean of M teachers has an M-th of the variance of one, in the mean over sets of labels."""
    inputs, true, _ = channel
    random = np.random.default_rng(1)
    inverse = np.linalg.inv(inputs @ inputs.T + 2.0 * np.eye(WIDTH))

    def spread(number):
        means = []
        for _ in range(2000):
            noise = random.normal(size=(number, CLASSES, SAMPLES)).mean(0) * NOISE
            means.append((true @ inputs + noise) @ inputs.T @ inverse)
        return costs(inputs, true, np.array(means), CLASSES)[1]

    assert spread(1) / spread(4) == pytest.approx(4.0, rel=0.1)


# Ridge regression that teaches itself: the student's labels are (1 - x) y + x (outputs of the ridge teacher), with the same penalty. Its weights
# are (1 - x) w_1 + x w_2, where w_2 is the ridge solution for the teacher's outputs, so the expected risk is quadratic in x.


@pytest.fixture
def ridge():
    """(inputs [n, d], true weights [d], penalty, hat matrix of the weights [d, n])."""
    random = np.random.default_rng(5)
    inputs = random.normal(size=(30, WIDTH)) * np.linspace(0.3, 2.0, WIDTH)
    true, penalty = random.normal(size=WIDTH), 0.3
    return inputs, true, penalty, np.linalg.solve(inputs.T @ inputs + penalty * np.eye(WIDTH), inputs.T)


def best_weight(inputs, true, once):
    """(x* = argmin, risk as a function of x): E |w(x) - w*|^2 over the noise, w(x) = A(x) y with A(x) = A + x (A X A - A)."""
    more = once @ inputs @ once - once

    def risk(weight):
        matrix = once + weight * more
        return float(np.sum((matrix @ inputs @ true - true) ** 2) + NOISE**2 * np.sum(matrix**2))

    miss, turn = once @ inputs @ true - true, more @ inputs @ true
    slope = turn @ miss + NOISE**2 * np.sum(once * more)
    return -slope / (turn @ turn + NOISE**2 * np.sum(more**2)), risk


def test_the_best_mixing_weight_of_ridge_self_distillation(ridge):
    inputs, true, _, once = ridge
    best, risk = best_weight(inputs, true, once)
    assert 0.1 < best < 0.9
    grid = np.linspace(best - 2, best + 2, 4001)
    assert grid[np.argmin([risk(x) for x in grid])] == pytest.approx(best, abs=1e-3)
    assert risk(best) < min(risk(0.0), risk(1.0))  # better than the teacher, and than its outputs alone
    random, errors = np.random.default_rng(0), []
    for _ in range(10_000):
        labels = inputs @ true + NOISE * random.normal(size=len(inputs))
        teacher = once @ labels
        student = once @ ((1 - best) * labels + best * (inputs @ teacher))
        errors.append(np.sum((student - true) ** 2))
    assert np.mean(errors) == pytest.approx(risk(best), rel=0.02)


def test_it_is_what_the_terms_mse_and_mse_kd_minimise(ridge):
    """At the closed form the gradient of the objective with these weights, and the penalty, is 0."""
    inputs, true, penalty, once = ridge
    best = float(best_weight(inputs, true, once)[0])
    labels = inputs @ true + NOISE * np.random.default_rng(5).normal(size=len(inputs))
    taught = inputs @ (once @ labels)
    student = torch.tensor(once @ ((1 - best) * labels + best * taught), requires_grad=True)
    objective = build_objective({"mse": {"weight": 1 - best}, "mse_kd": {"weight": best}})
    tensors = {
        "student_outputs": (torch.tensor(inputs) @ student)[:, None],
        "teacher_outputs": torch.tensor(taught)[:, None],
        "targets": torch.tensor(labels),
        "mask": None,
    }
    total, _ = objective(tensors, len(inputs))
    (len(inputs) * total + penalty * student.square().sum()).backward()
    torch.testing.assert_close(
        student.grad, torch.zeros_like(student), atol=1e-5, rtol=0
    )  # weights of terms are float32
