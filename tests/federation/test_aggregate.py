"""Aggregation against loops over single numbers."""

import itertools
import statistics

import numpy as np
import pytest

from kdrun.federation.aggregate import combine
from kdrun.federation.messages import Update
from kdrun.problems import UserError

RANDOM = np.random.default_rng(0)
UPDATES = {
    client: Update(
        {
            "weight": RANDOM.normal(size=(3, 2)).astype(np.float32),
            "scalar": np.array(RANDOM.normal(), np.float32),
            "count": np.array(client + 4, np.int64),
        },
        samples,
    )
    for client, samples in enumerate((5, 50, 1, 20, 9))
}


def slow(values, samples, how, trim):
    if how == "fedavg":
        return sum(value * count for value, count in zip(values, samples, strict=True)) / sum(samples)
    if how == "median":
        return statistics.median(values)
    cut = int(trim * len(values))
    return statistics.mean(sorted(values)[cut : len(values) - cut])


@pytest.mark.parametrize(
    ("how", "trim"), [("fedavg", 0.1), ("median", 0.1), ("trimmed_mean", 0.2), ("trimmed_mean", 0)]
)
def test_every_number_is_combined_as_written_out(how, trim):
    found = combine(UPDATES, how, trim)
    samples = [update.samples for update in UPDATES.values()]
    for name in ("weight", "scalar"):
        first = UPDATES[0].arrays[name]
        assert found[name].dtype == first.dtype and found[name].shape == first.shape
        for place in itertools.product(*map(range, first.shape)):
            values = [float(update.arrays[name][place]) for update in UPDATES.values()]
            assert found[name][place] == pytest.approx(slow(values, samples, how, trim), rel=1e-6)
    assert found["count"].dtype == np.int64 and isinstance(found["count"], np.ndarray) and found["count"] == 8


@pytest.mark.parametrize("how", ["fedavg", "median", "trimmed_mean"])
def test_who_answered_first_changes_no_bit(how):
    one, other = combine(UPDATES, how), combine(dict(reversed(UPDATES.items())), how)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_one_liar_among_five_moves_the_mean_and_not_the_median():
    liar = {**UPDATES, 2: Update({name: array * 1000 for name, array in UPDATES[2].arrays.items()}, 100)}
    spread = [np.abs(combine(liar, how)["weight"]).max() for how in ("fedavg", "median", "trimmed_mean")]
    assert spread[0] > 100 > 3 > spread[1]
    assert np.abs(combine(liar, "trimmed_mean", 0.2)["weight"]).max() < 3


def test_mistakes():
    with pytest.raises(UserError, match="closest: median"):
        combine(UPDATES, "medain")
    with pytest.raises(UserError, match=r"trim=0\.5"):
        combine(UPDATES, "trimmed_mean", 0.5)
    with pytest.raises(ValueError, match="nothing to combine"):
        combine({})
