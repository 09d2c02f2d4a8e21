"""AUC, DeLong's test and thresholds against slow references that follow the definitions."""

import itertools
import math

import numpy as np
import pytest

from kdrun.auc import Ranked, at_threshold, auc, delong, macro_auc, nine_digits, youden


def by_pairs(targets, scores, weights=None):
    weights = [1] * len(targets) if weights is None else weights
    wins = pairs = 0
    for (y, s, w), (other_y, other_s, other_w) in itertools.product(
        list(zip(targets, scores, weights, strict=True)), repeat=2
    ):
        if y and not other_y:
            pairs += w * other_w
            wins += w * other_w * (1 if s > other_s else 0.5 if s == other_s else 0)
    return wins / pairs if pairs else math.nan


def made(samples=60, classes=2, steps=10, seed=0):
    """Targets, and probabilities with many ties."""
    random = np.random.default_rng(seed)
    targets = random.integers(classes, size=samples)
    scores = random.integers(1, steps, size=(samples, classes)) + 3 * np.eye(classes, dtype=int)[targets]
    return targets, scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half(seed):
    targets, probabilities = made(seed=seed)
    scores = probabilities[:, 1].round(1)
    assert len(set(scores)) < 12
    assert auc(targets, scores) == pytest.approx(by_pairs(targets, scores), abs=1e-15)
    weights = np.random.default_rng(seed).integers(4, size=60)
    assert auc(targets, scores, weights) == pytest.approx(by_pairs(targets, scores, weights), abs=1e-15)
    shares = weights / 7
    assert auc(targets, scores, shares) == pytest.approx(by_pairs(targets, scores, shares), abs=1e-12)
    repeated = np.repeat(np.arange(60), weights)
    assert auc(targets, scores, weights) == auc(targets[repeated], scores[repeated])


def test_auc_by_hand():
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auc([1, 0], [0.3, 0.3]) == 0.5 and auc([1, 0], [0.2, 0.3]) == 0.0
    assert auc([True, False], [2, 1]) == 1.0


def test_auc_is_not_known_without_both_classes_or_with_scores_that_are_not_finite():
    assert all(math.isnan(auc(targets, [0.1, 0.2])) for targets in ([0, 0], [1, 1]))
    assert math.isnan(auc([], [])) and math.isnan(auc([0, 1], [0.1, math.nan]))
    assert math.isnan(auc([0, 1, 1], [0.1, 0.2, 0.3], [0, 1, 1]))
    assert math.isnan(macro_auc([1, 1], [[0.5, 0.5], [0.2, 0.8]]))
    assert math.isnan(macro_auc([0, 1], [[math.nan, 0.5], [0.2, 0.8]]))


def test_of_several_classes_it_is_the_mean_over_those_that_occur():
    targets, probabilities = made(classes=5)
    targets[targets == 3] = 4
    expected = [by_pairs(targets == one, probabilities[:, one]) for one in (0, 1, 2, 4)]
    assert macro_auc(targets, probabilities) == pytest.approx(np.mean(expected), abs=1e-15)


def test_of_two_classes_it_is_that_of_the_second():
    targets, probabilities = made()
    assert macro_auc(targets, probabilities) == auc(targets, probabilities[:, 1])
    assert macro_auc([0, 1], [[1.0, 1e-12], [1.0, 1e-11]]) == 1.0


@pytest.mark.parametrize("classes", [2, 4])
def test_ranked_scores_give_the_auc_of_every_weighting(classes):
    targets, probabilities = made(classes=classes)
    weights = np.random.default_rng(1).integers(3, size=(60, 7))
    found = Ranked(targets, probabilities).auc(weights)
    for column, value in zip(weights.T, found, strict=True):
        rows = np.repeat(np.arange(60), column)
        assert value == pytest.approx(macro_auc(targets[rows], probabilities[rows]), abs=1e-15)
    weights[targets == 1, 2] = 0
    assert np.isnan(Ranked(targets, probabilities).auc(weights)).tolist() == [column == 2 for column in range(7)]


def slow_delong(targets, first, second):
    """Structural components by their definition, and the 2 x 2 covariance of both AUCs."""
    ones, zeros = ([row for row, y in enumerate(targets) if y == kind] for kind in (1, 0))

    def wins(s, i, j):
        return 1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0

    v10 = [[sum(wins(s, i, j) for j in zeros) / len(zeros) for i in ones] for s in (first, second)]
    v01 = [[sum(wins(s, i, j) for i in ones) / len(ones) for j in zeros] for s in (first, second)]
    areas = [sum(values) / len(ones) for values in v10]

    def covariance(values, a, b):
        return sum(
            (x - areas[a]) * (y - areas[b]) for x, y in zip(values[a], values[b], strict=True)
        ) / (len(values[a]) - 1)  # fmt: skip

    s = {(a, b): covariance(v10, a, b) / len(ones) + covariance(v01, a, b) / len(zeros) for a in (0, 1) for b in (0, 1)}
    deviation = math.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    difference = areas[0] - areas[1]
    return difference, deviation, math.erfc(abs(difference) / deviation / math.sqrt(2))


@pytest.mark.parametrize("seed", range(4))
def test_delong_equals_its_definition(seed):
    targets, one = made(seed=seed)
    random = np.random.default_rng(seed)
    first, second = one[:, 1].round(2), (one[:, 1] + random.normal(0, 0.2, 60)).round(2)
    difference, deviation, p_value = slow_delong(targets.tolist(), first.tolist(), second.tolist())
    found = delong(targets, first, second)
    assert found["difference"] == pytest.approx(difference, abs=1e-12)
    assert found["difference"] == pytest.approx(auc(targets, first) - auc(targets, second), abs=1e-12)
    assert found["p_value"] == pytest.approx(p_value, rel=1e-9)
    half = 1.959963984540054 * deviation
    assert found["interval"] == pytest.approx([difference - half, difference + half], abs=1e-12)
    back = delong(targets, second, first)
    assert back["difference"] == -found["difference"] and back["p_value"] == found["p_value"]


def test_delong_keeps_its_level_where_nothing_differs():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        targets = random.permutation(np.arange(80) % 2)
        signal = targets + random.normal(size=80)
        pair = (signal + random.normal(size=80) for _ in range(2))
        hits += delong(targets, *pair)["p_value"] < 0.05
    assert 8 <= hits <= 36  # 20 expected, deviation 4.4


def test_delong_without_any_variance():
    targets, one = made()
    scores = one[:, 1]
    same = {"difference": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    assert delong(targets, scores, scores) == same == delong(targets, scores, scores**3)
    # A perfect ranking against its reverse: components do not vary, so nothing can be said about chance.
    perfect = targets + np.linspace(0, 0.5, 60)
    assert delong(targets, perfect, -perfect) == {"difference": 1.0, "interval": None, "p_value": None}


def test_delong_says_nothing_where_a_class_has_fewer_than_two_samples():
    found = delong([0, 0, 1], [0.1, 0.2, 0.3], [0.1, 0.5, 0.3])
    assert found == {"difference": 0.5, "interval": None, "p_value": None}
    found = delong([0, 0], [0.1, 0.2], [0.2, 0.1])
    assert math.isnan(found["difference"]) and found["interval"] is None is found["p_value"]


def slow_youden(targets, scores):
    """The best index by trying a threshold at every score, and one above all."""
    best = -1
    for threshold in [*scores, 2]:
        sensitivity, specificity = at_threshold(targets, scores, threshold)
        best = max(best, sensitivity + specificity - 1)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_has_the_largest_youden_index(seed):
    targets, one = made(seed=seed)
    scores = one[:, 1].round(2) if seed < 5 else 1 - one[:, 1]
    threshold = youden(targets, scores)
    assert threshold not in scores and threshold >= 0
    assert sum(at_threshold(targets, scores, threshold)) - 1 == pytest.approx(slow_youden(targets, scores), abs=1e-12)


def test_thresholds_lie_halfway_and_ties_go_to_the_one_nearest_to_a_half():
    assert youden([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)
    # 1 2/3 of sensitivity and specificity both at 0.2 and at 0.65.
    assert youden([0, 1, 0, 1], [0.1, 0.3, 0.5, 0.8]) == pytest.approx(0.65)
    assert youden([0, 1, 0, 1], [0.1, 0.7, 0.8, 0.9]) == pytest.approx(0.4)


def test_thresholds_of_useless_scores_call_all_samples_alike():
    for scores in ([0.9, 0.1], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.7, 0.7]):
        assert sum(at_threshold([0, 1], scores, youden([0, 1], scores))) == 1.0


def test_between_neighbouring_floats_the_upper_one_is_the_threshold():
    lower = 0.3
    for _ in range(2):  # the mean of one of these pairs is rounded down
        lower, upper = float(np.nextafter(lower, 1)), float(np.nextafter(np.nextafter(lower, 1), 1))
        assert youden([0, 1], [lower, upper]) == upper


def test_an_absent_class_has_no_threshold_and_no_share():
    assert youden([1, 1], [0.1, 0.2]) is None is youden([], [])
    assert at_threshold([1, 1], [0.1, 0.6], 0.6) == (0.5, None)
    assert at_threshold([0, 0], [0.1, 0.6], 0.6) == (None, 0.5)


def test_nine_digits_keep_what_is_small():
    found = nine_digits(np.asarray([[1 / 3, 1.23456789123e-12], [0.0, 1.0]]))
    assert found.tolist() == [[0.333333333, 1.23456789e-12], [0.0, 1.0]]
