"""Drops and corruption errors, written out."""

import numpy as np
import pytest

from kdrun.domains.images.corruptions import corrupted, normalised_levels
from kdrun.domains.tabular.spec import TableSpec
from kdrun.hardware.card import robustness

KINDS = ("noise", "blur", "brightness", "contrast")


def test_the_summary_written_out():
    scores = {"noise": [0.9, 0.8, 0.7, 0.6, 0.5], "blur": [1.0, 0.9, 0.9, 0.9, 0.8]}
    reference = {"noise": [0.95, 0.9, 0.9, 0.8, 0.7], "blur": [1.0, 1.0, 0.95, 0.95, 0.9]}
    teacher = robustness.summary(0.99, reference, None)
    found = robustness.summary(0.95, scores, teacher)
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 1.0, 0.9, 0.9, 0.9, 0.8]
    assert found["drop"] == pytest.approx(0.95 - sum(values) / 10)
    assert found["error"] == pytest.approx(sum(1 - value for value in values) / 10)
    assert found["teacher_drop"] == teacher["drop"] == pytest.approx(0.99 - 0.905)
    # noise: 1.5 errors against 0.75; blur: 0.5 against 0.2
    assert found["relative_error"] == pytest.approx((1.5 / 0.75 + 0.5 / 0.2) / 2)
    assert teacher["teacher_drop"] is None and teacher["relative_error"] is None


def test_a_teacher_without_errors_has_no_relative_error():
    teacher = robustness.summary(1.0, {"noise": [1.0] * 5}, None)
    assert robustness.summary(1.0, {"noise": [0.9] * 5}, teacher)["relative_error"] is None


def test_what_is_not_finite_is_not_known():
    assert robustness.summary(float("nan"), {"noise": [0.9] * 5}, None)["drop"] is None


def test_pixels_are_corrupted_before_they_are_normalised():
    """A network is given (corrupt(pixels) - mean) / std, and nothing else."""
    pixels = np.random.default_rng(0).random((6, 3, 5, 5), dtype=np.float32)
    ids, mean, std = np.arange(6), (0.2, 0.5, 0.6), (0.5, 0.25, 0.1)
    centre, spread = (np.array(values, dtype=np.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    levels = normalised_levels((pixels - centre) / spread, ids, mean, std, seed=2)
    assert tuple(levels) == KINDS and all(len(values) == 5 for values in levels.values())
    for name, level in ((name, level) for name in KINDS for level in range(5)):
        expected = (corrupted(name, level, pixels, ids, 2) - centre) / spread
        np.testing.assert_allclose(levels[name][level](), expected, atol=2e-5)


def test_of_tables_there_is_noise_only():
    rows = np.zeros((20, 3), dtype=np.float32)
    spec = TableSpec("toy", ("a", "b", "c"), "y", {}, (0.0,) * 3, (1.0,) * 3, 0.0, 1.0)
    levels = spec.corrupted(rows, np.arange(20), 0)
    spread = [float(level().std()) for level in levels["noise"]]
    assert list(levels) == ["noise"] and len(spread) == 5 and spread == sorted(spread)
