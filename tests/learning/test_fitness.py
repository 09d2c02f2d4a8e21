"""Whether a network may teach: no better than a guess is a statement about as many samples as there are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kdrun.domains.ct.task import Diagnosis
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.domains.tabular.spec import TableSpec
from kdrun.domains.tabular.task import Regression
from kdrun.learning.fitness import UnfitTeacher, check_guess, check_stated
from kdrun.learning.preflight import preflight
from kdrun.learning.teacher import FrozenTeacher


def task_of(classes: int, kind=Classification):
    return kind(DataSpec("toy", tuple(map(str, range(classes))), (1, 1, 1), {}, (0.0,), (1.0,)))


class Answers(torch.nn.Module):
    """Says what its input is."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes, self.unused = classes, torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return torch.nn.functional.one_hot(inputs.flatten().long(), self.classes).float()


def looked_at(answers: torch.Tensor, targets: torch.Tensor, classes: int, kind=Classification):
    task = task_of(classes, kind)
    batch = {"inputs": answers.float().view(-1, 1, 1, 1), "targets": targets}
    module = SimpleNamespace(eval_loader=lambda split, batch_size: [batch], preflight_batch=256)
    teacher = FrozenTeacher(Answers(classes), task, "t")
    return preflight(teacher, module, task, SimpleNamespace(name="t", stated=None), {"tolerance": 0.03})


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 7, 10])
@pytest.mark.parametrize("each", [1, 20, 67, 300])
def test_always_naming_one_of_equally_frequent_classes_never_teaches(classes, each):
    targets = torch.arange(classes).repeat(each)
    with pytest.raises(UnfitTeacher, match="no better than always naming the largest class"):
        looked_at(torch.zeros(len(targets)), targets, classes)


def test_of_three_samples_it_is_said_that_they_are_too_few():
    targets = torch.arange(3)
    with pytest.raises(UnfitTeacher, match=r"so few cannot tell any teacher from .*data.val_fraction"):
        looked_at(targets, targets, 3)


@pytest.mark.parametrize("kind", [Classification, Diagnosis])
def test_few_right_answers_more_than_a_guess_are_chance_and_many_are_not(kind):
    targets = torch.arange(3).repeat(40)
    lucky = torch.zeros(120)
    lucky[:4] = targets[:4]  # right 3 times more than the guess
    with pytest.raises(UnfitTeacher, match=r"by chance up to 0\.\d+\); train it longer \(teacher.trainer.epochs\)"):
        looked_at(lucky, targets, 3, kind)
    good = torch.zeros(120)
    good[:60] = targets[:60]
    assert looked_at(good, targets, 3, kind)["samples"] == 120


@pytest.mark.parametrize(("classes", "each"), [(3, 20), (1, 5), (2, 500), (10, 45), (7, 1)])
def test_the_limit_is_the_quantile_of_a_binomial_in_float64(classes, each):
    from scipy.stats import binom

    guess = task_of(classes).trivial([torch.arange(classes).repeat(each)])
    assert guess == 1 / classes and (classes < 3 or guess != torch.tensor(1 / classes).item())
    count = classes * each
    assert round(guess.limit * count - 0.5) == binom.ppf(0.975, count, 1 / classes)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_random_answers_are_no_better_than_the_largest_class(classes):
    generator = torch.Generator().manual_seed(1)
    targets, passed = torch.arange(classes).repeat(60), 0
    for _ in range(200):
        try:
            looked_at(torch.randint(classes, (len(targets),), generator=generator), targets, classes)
            passed += 1
        except UnfitTeacher:
            pass
    assert passed / 200 < 0.06


def test_what_a_teacher_has_right_beside_the_guess_counts_however_few_samples_there_are():
    """As a small vision-language teacher: all ends of sentences, and 8 of 43 words."""
    targets = torch.tensor([0] * 40 + [1 + n % 9 for n in range(43)])
    answers = torch.zeros(83)
    answers[40:48] = targets[40:48]
    assert looked_at(answers, targets, 10)["accuracy"] == pytest.approx(48 / 83)


def test_random_answers_pass_about_as_often_as_said():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(4).repeat(50)
    limit = task_of(4).trivial([targets]).limit
    passed = sum(
        float((torch.randint(4, (200,), generator=generator) == targets).double().mean()) > limit for _ in range(2000)
    )
    assert passed / 2000 < 0.035
    labels = (torch.rand(200, generator=generator) < 0.3).long()
    bound = task_of(2, Diagnosis).trivial([labels]).limit
    from kdrun.auc import auc

    found = [auc(labels.tolist(), torch.rand(200, generator=generator).tolist()) for _ in range(400)]
    assert sum(value > bound for value in found) / 400 < 0.05


def test_a_regression_that_explains_nothing_is_chance():
    task = Regression(TableSpec("t", ("x",), "y", {}, (0.0,), (1.0,), 0.0, 1.0))
    assert task.trivial([torch.zeros(50), torch.zeros(50)]) == 0.0
    guess = task.trivial([torch.zeros(100)])
    generator = torch.Generator().manual_seed(0)
    passed = 0
    for _ in range(500):  # the best that a useless input can look
        x, y = torch.randn(2, 100, generator=generator).double()
        passed += float(torch.corrcoef(torch.stack([x, y]))[0, 1] ** 2) > guess.limit
    assert 0.02 < passed / 500 < 0.09


def test_notes_of_before_guesses_were_noted_are_taken():
    check_guess("t", {"accuracy": 0.1, "samples": 3})


@pytest.mark.parametrize(("value", "fit"), [(0.92, True), (0.9199, False), (float("nan"), False), (0.99, True)])
def test_stated_and_tolerance(value, fit):
    if fit:
        return check_stated("t", "accuracy", value, 0.95, 0.03, "validation")
    with pytest.raises(UnfitTeacher, match=r"0\.9500 was stated"):
        check_stated("t", "accuracy", value, 0.95, 0.03, "validation")


def test_usual_normalisations_have_a_number_for_each_channel():
    def usual(channels):
        return DataSpec(
            "toy", ("a", "b"), (channels, 2, 2), {}, (0.0,) * channels, (1.0,) * channels
        ).usual_normalisations()

    for channels in (1, 2, 3, 7):
        assert all(len(it["mean"]) == len(it["std"]) == channels for it in usual(channels).values())
    assert "ImageNet" in usual(3) and "ImageNet" in usual(1) and "ImageNet" not in usual(2)
