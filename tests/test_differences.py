"""Differences over seeds: against scipy's tests, Holm by its definition, and the power that is claimed by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from kdrun.differences import (
    BETTER,
    PAIRED,
    SINGLE,
    SMALL,
    UNDECIDED,
    WELCH,
    WORSE,
    Difference,
    corrected,
    difference_of,
    from_moments,
    holm,
    interval_of,
    power_of,
    probability_of_improvement,
    read_difference,
    seeds_needed,
    visible_effect,
)
from kdrun.present.verdict import comparison, decision_text, is_open

FIRST = {0: 0.92, 1: 0.90, 2: 0.95, 3: 0.91}
SECOND = {0: 0.90, 1: 0.905, 2: 0.90, 3: 0.90}


def test_shared_seeds_are_paired_and_agree_with_scipy():
    found = difference_of(FIRST, SECOND)
    theirs = stats.ttest_rel(list(FIRST.values()), list(SECOND.values()))
    assert (found.method, found.n, found.counts, found.degrees) == (PAIRED, 4, (4, 4), 3)
    assert found.mean == pytest.approx(0.01875) and found.p_value == pytest.approx(theirs.pvalue)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.values == pytest.approx((0.02, -0.005, 0.05, 0.01))


def test_seeds_that_are_not_shared_are_compared_by_welch():
    first, second = {f"a{seed}": value for seed, value in FIRST.items()}, {0: 0.9, 1: 0.85, 2: 0.93}
    found = difference_of(first, second)
    theirs = stats.ttest_ind(list(first.values()), list(second.values()), equal_var=False)
    assert (found.method, found.n, found.counts) == (WELCH, 7, (4, 3)) and found.degrees == pytest.approx(theirs.df)
    assert found.p_value == pytest.approx(theirs.pvalue) and found.values == ()
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    one_shared = difference_of({0: 0.9, 5: 0.91}, {0: 0.8, 7: 0.82})
    assert one_shared.method == WELCH and one_shared.counts == (2, 2)


def test_one_seed_says_nothing_about_chance():
    for first, second in (({0: 0.9}, {0: 0.8}), ({0: 0.9}, {1: 0.8, 2: 0.7}), ({0: 0.9}, {0: 0.8, 1: 0.9})):
        found = difference_of(first, second)
        assert found.interval is None and found.p_value is None and found.visible is None
        assert found.decision() == SINGLE and found.seeds_to_settle() is None
    assert difference_of({}, {0: 0.1}) is None
    assert difference_of({0: math.nan, 1: 0.5}, {0: 0.1, 1: 0.2}).decision() == SINGLE


def test_pairs_are_those_that_both_have():
    found = difference_of(FIRST, {2: 0.9, 3: 0.9, 9: 0.1})
    assert (found.n, found.counts) == (2, (2, 2)) and found.values == pytest.approx((0.05, 0.01))


def test_decisions():
    assert difference_of({0: 0.9, 1: 0.91, 2: 0.92}, {0: 0.8, 1: 0.81, 2: 0.821}).decision() == BETTER
    assert difference_of({0: 0.8, 1: 0.81, 2: 0.821}, {0: 0.9, 1: 0.91, 2: 0.92}).decision() == WORSE
    close = difference_of({0: 0.9, 1: 0.91, 2: 0.92}, {0: 0.8995, 1: 0.9105, 2: 0.9201})
    assert close.decision() == SMALL and close.decision(margin=0.0001) == UNDECIDED == close.decision(margin=None)
    assert difference_of(FIRST, SECOND).decision() == UNDECIDED
    same = difference_of(FIRST, FIRST)
    assert (same.p_value, same.interval, same.visible, same.improvement) == (1.0, (0.0, 0.0), 0.0, 0.5)


@pytest.mark.parametrize(("n", "p", "decision"), [(2, 0.5, UNDECIDED), (5, 0.0625, UNDECIDED), (6, 0.03125, BETTER)])
def test_pairs_that_differ_by_the_same_amount_have_the_p_value_of_signs(n, p, decision):
    first, second = {seed: 0.1 * seed + 0.11 for seed in range(n)}, {seed: 0.1 * seed for seed in range(n)}
    equal = difference_of(first, second)
    assert equal.p_value == pytest.approx(p) and equal.decision() == decision
    assert (equal.interval[0] > 0) == (decision == BETTER) and equal.visible > 0
    assert equal.seeds_to_settle() > n
    assert from_moments(0.11, 0.0, n).p_value == pytest.approx(p)


def test_two_sets_of_equal_seeds_have_the_p_value_of_ranks():
    assert difference_of({0: 0.9, 1: 0.9}, {2: 0.8, 3: 0.8}).p_value == pytest.approx(2 / 6)
    assert difference_of(dict.fromkeys(range(5), 0.9), dict.fromkeys(range(5, 10), 0.8)).decision() == BETTER


def test_equal_arms_on_few_test_samples_are_not_called_different():
    right = np.random.default_rng(0).binomial(9, 0.7, (2000, 2, 2)) / 9
    wrong = [
        difference_of(dict(enumerate(one)), dict(enumerate(two))).decision() in (BETTER, WORSE) for one, two in right
    ]
    assert np.mean(wrong) < 0.05


def test_holm_equals_its_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert (
        holm([0.04, None, 0.03]) == pytest.approx([0.06, None, 0.06])
        and holm([]) == []
        and holm([0.9, 0.8]) == [1.0, 1.0]
    )
    rejected = [value < 0.05 for value in holm(p)]
    order, expected = sorted(range(4), key=lambda place: p[place]), [False] * 4
    for rank, place in enumerate(order):  # step down until one is not rejected
        if p[place] >= 0.05 / (4 - rank):
            break
        expected[place] = True
    assert rejected == expected


def test_comparisons_made_together_are_corrected_and_decided_so():
    barely = difference_of({0: 0.92, 1: 0.91, 2: 0.93}, {0: 0.9, 1: 0.898, 2: 0.903})
    assert barely.decision() == BETTER and 0.025 < barely.p_value < 0.05
    found = corrected(
        {"alone": barely, "plain_kd": difference_of(FIRST, SECOND), "one seed": Difference(0.1, 1, (1, 1))}
    )
    assert found["alone"].p_holm == pytest.approx(2 * barely.p_value) == found["alone"].p
    assert found["alone"].comparisons == 2 and found["alone"].decision() == UNDECIDED
    assert found["one seed"].p is None and found["one seed"].comparisons == 1


def test_probability_of_improvement_counts_all_pairs_and_half_of_ties():
    assert probability_of_improvement([1, 2, 3], [0, 2, 5]) == pytest.approx((1 + 1.5 + 2) / 9)
    theirs = stats.mannwhitneyu(list(FIRST.values()), list(SECOND.values())).statistic / 16
    assert difference_of(FIRST, SECOND).improvement == pytest.approx(theirs)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_visible_effect_is_seen_in_four_of_five_simulated_comparisons(n):
    random, tries, sd = np.random.default_rng(n), 20_000, 2.0
    effect = visible_effect(sd / math.sqrt(n), n - 1)
    values = random.normal(effect, sd, (tries, n))
    t = values.mean(1) / (values.std(1, ddof=1) / math.sqrt(n))
    seen = float((t > stats.t.ppf(0.975, n - 1)).mean())
    assert seen == pytest.approx(0.8, abs=0.015)


def test_seeds_needed_is_the_smallest_number_with_that_power():
    for effect, sd in ((1.0, 1.0), (0.5, 1.5), (2.0, 1.0)):
        n = seeds_needed(effect, sd)
        assert power_of(effect, sd / math.sqrt(n), n - 1) >= 0.8 > power_of(effect, sd / math.sqrt(n - 1), n - 2)
    assert (
        seeds_needed(1.0, 1.0) == 10
        and seeds_needed(0.5, 2.0) is None
        and seeds_needed(0.001, 1.0) is None
        and seeds_needed(0.0, 1.0) is None
    )
    assert seeds_needed(1.0, 0.0) == 2 and seeds_needed(1.0, 1.0, corrected_for=4) > 10


def test_power_is_certain_where_the_effect_is_far_beyond_chance():
    assert power_of(1e6, 1.0, 2) == 1.0 == power_of(1.0, 0.0, 2) and power_of(0.0, 1.0, 4) == pytest.approx(0.025)


def test_a_difference_survives_its_record():
    for found in (
        difference_of(FIRST, SECOND),
        difference_of({0: 1.0, 1: 0.9}, {5: 0.8, 6: 0.7}),
        difference_of({0: 1}, {0: 2}),
    ):
        found = corrected({"alone": found})["alone"]
        assert read_difference(found.as_record()) == found
        assert not any(isinstance(value, tuple) for value in found.as_record().values())


def test_older_records_are_read_by_students_t():
    values = [0.02, -0.005, 0.05, 0.01]
    both = {
        "mean": 0.01875,
        "n": 4,
        "sd": 0.0229,
        "interval": [0.001, 0.04],
        "interval_t": [-0.01, 0.05],
        "values": values,
    }
    expected = difference_of(FIRST, SECOND)
    assert read_difference(both).interval == pytest.approx(expected.interval)
    without = {"mean": expected.mean, "n": 4, "sd": expected.sd, "interval": [-0.01, 0.05]}
    assert read_difference(without).interval == pytest.approx(expected.interval)
    assert read_difference({"mean": 0.1, "n": 1, "sd": None, "interval": None}).interval is None


def test_intervals_without_error_are_points():
    assert interval_of(0.5, 0.0, 3) == (0.5, 0.5)


def test_differences_that_are_all_exactly_zero_are_called_identical():
    same = difference_of({0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.9, 1: 0.8, 2: 0.7})
    assert same.identical and not is_open(same, "accuracy")
    assert comparison(same, "accuracy", "the control").startswith("Identical in every seed: +0.00 points")
    assert decision_text(same, "accuracy") == "identical in every seed" == decision_text(same, "mse")
    nearly = difference_of({0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.9, 1: 0.8001, 2: 0.6999})
    apart = difference_of({0: 0.9, 1: 0.9}, {2: 0.9, 3: 0.9})  # seeds that are not shared
    single = difference_of({0: 0.9}, {0: 0.9})
    assert not any(one.identical for one in (nearly, apart, single))
