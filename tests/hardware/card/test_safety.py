"""Worst class, calibration, inherited errors: against loops over samples."""

import math

import numpy as np
import pytest

from kdrun.hardware.card import safety

CLASSES = ("cat", "dog", "owl", "elk")


@pytest.fixture(scope="module")
def drawn():
    random = np.random.default_rng(3)
    targets = random.integers(0, 3, 300)  # no elk

    def logits(strength):
        return (random.normal(size=(300, 4)) + strength * np.eye(4)[targets]).astype(np.float32)

    return targets, logits(2.0), logits(1.5), logits(1.0)


def label(row):
    return max(range(len(row)), key=lambda one: (row[one], -one))


def slow_ece(logits, targets, bins=15):
    """Guo et al. 2017, equation 3, one sample at a time."""
    inside = [[] for _ in range(bins)]
    for row, target in zip(logits.astype(float), targets, strict=True):
        powers = [math.exp(value - max(row)) for value in row]
        confidence = max(powers) / sum(powers)
        inside[min(bins - 1, int(confidence * bins))].append((confidence, label(row) == target))
    return sum(
        len(one) / len(targets) * abs(sum(c for c, _ in one) / len(one) - sum(r for _, r in one) / len(one))
        for one in inside
        if one
    )


def test_everything_against_loops(drawn):
    targets, teacher, student, alone = drawn
    found = safety.of(student, targets, CLASSES, teacher, alone, critical=("dog", "elk"))
    recalls = {}
    for name, logits in (("teacher", teacher), ("student", student)):
        right = {
            one: [label(row) == one for row, target in zip(logits, targets, strict=True) if target == one]
            for one in range(3)
        }
        recalls[name] = {one: sum(values) / len(values) for one, values in right.items()}
    worst = min(recalls["student"], key=recalls["student"].get)
    assert found["worst_class"] == CLASSES[worst] and found["worst_class_recall"] == pytest.approx(
        recalls["student"][worst]
    )
    assert found["worst_class_drop"] == pytest.approx(min(recalls["teacher"].values()) - recalls["student"][worst])
    drops = {one: recalls["teacher"][one] - recalls["student"][one] for one in range(3)}
    most = max(drops, key=drops.get)
    assert found["largest_drop"] == {"class": CLASSES[most], "drop": pytest.approx(drops[most])}
    assert found["ece"] == pytest.approx(slow_ece(student, targets), abs=1e-5)
    lost = [i for i in range(300) if label(teacher[i]) != targets[i]]
    assert 10 < len(lost) == found["teacher_errors"]
    for key, logits in (("inherited_errors", student), ("inherited_errors_alone", alone)):
        assert found[key] == pytest.approx(sum(label(logits[i]) != targets[i] for i in lost) / len(lost))
    dogs = [i for i in range(300) if targets[i] == 1]
    assert found["critical"]["dog"]["false_negative_rate"] == pytest.approx(
        sum(label(student[i]) != 1 for i in dogs) / len(dogs)
    )
    assert found["critical"]["dog"]["agreement"] == pytest.approx(
        sum(label(student[i]) == label(teacher[i]) for i in dogs) / len(dogs)
    )
    assert found["critical"]["elk"] == {"false_negative_rate": None, "agreement": None}, (
        "there are none in the test set"
    )


def test_it_is_what_records_say(drawn):
    """The same digits as the scores that stages record."""
    import torch

    from kdrun.domains.scores import ClassificationScores

    targets, logits, *_ = drawn
    scores = ClassificationScores(4)
    scores.update(torch.from_numpy(logits), torch.from_numpy(targets))
    recorded, found = scores.compute(), safety.of(logits, targets, CLASSES)
    assert found["worst_class_recall"] == pytest.approx(float(recorded["worst_class"]), abs=1e-6)
    assert found["ece"] == pytest.approx(float(recorded["calibration"]), abs=1e-6)


def test_a_mean_that_rises_can_hide_a_class_that_falls():
    targets = np.array([0] * 80 + [1] * 20)
    teacher, student = np.zeros((100, 2), dtype=np.float32), np.zeros((100, 2), dtype=np.float32)
    teacher[np.arange(100), targets] = 1
    teacher[:20] = [0, 1]  # 80 %: class 0 at 0.75, class 1 at 1
    student[:, 0] = 1
    student[98:] = [0, 1]  # 82 %: class 0 at 1, class 1 at 0.1
    found = safety.of(student, targets, ("a", "b"), teacher)
    assert found["worst_class"] == "b" and found["worst_class_drop"] == pytest.approx(0.75 - 0.1)
    assert found["largest_drop"] == {"class": "b", "drop": pytest.approx(0.9)}


def test_without_a_teacher_or_its_errors_nothing_is_inherited(drawn):
    targets, _, student, _ = drawn
    perfect = np.eye(4, dtype=np.float32)[targets]
    assert safety.of(student, targets, CLASSES)["inherited_errors"] is None
    found = safety.of(student, targets, CLASSES, perfect)
    assert found["inherited_errors"] is None and found["teacher_errors"] == 0


def test_nan_is_wrong():
    logits = np.array([[np.nan, 1.0], [0.0, 1.0]], dtype=np.float32)
    assert safety.recalls(logits, np.array([1, 1])) == {1: 0.5}


def test_two_classes_with_the_threshold_of_validation():
    logits = np.log(np.array([[0.9, 0.1], [0.7, 0.3], [0.65, 0.35], [0.2, 0.8]], dtype=np.float64))
    targets = np.array([0, 0, 1, 1])
    assert safety.two_classes(logits, targets) == {"sensitivity": 0.5, "specificity": 1.0, "threshold": 0.5}
    found = safety.two_classes(logits, targets, logits, targets)
    assert found["sensitivity"] == found["specificity"] == 1.0 and 0.3 < found["threshold"] < 0.35
    assert safety.two_classes(logits, targets, logits[:2], targets[:2])["sensitivity"] is None
