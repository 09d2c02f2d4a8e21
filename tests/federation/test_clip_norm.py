"""The bound on how far a client's weights may be from those it was sent: against a loop over numbers, and a client that scales."""

import itertools
import json
import math

import numpy as np
import pytest

from kdrun.federation.aggregate import clip
from kdrun.federation.messages import Update
from kdrun.federation.server import Rules
from kdrun.problems import UserError

from .plays import mlp, plain, play

RANDOM = np.random.default_rng(1)
SENT = {
    "weight": RANDOM.normal(size=(3, 2)).astype(np.float32),
    "scale": np.array(2.0, np.float32),
    "count": np.array(4),
}
NEAR = {"weight": SENT["weight"] + 0.01, "scale": np.array(2.1, np.float32), "count": np.array(9)}
FAR = {"weight": SENT["weight"] * -3, "scale": np.array(-7.0, np.float32), "count": np.array(12)}


def slow(arrays, sent, limit):
    """Number by number; (arrays, whether they were farther)."""
    total = 0.0
    for name in ("weight", "scale"):
        for place in itertools.product(*map(range, sent[name].shape)):
            total += (float(arrays[name][place]) - float(sent[name][place])) ** 2
    norm = math.sqrt(total)
    factor = min(1.0, limit / norm)
    found = {
        name: [
            float(sent[name][place]) + factor * (float(arrays[name][place]) - float(sent[name][place]))
            for place in itertools.product(*map(range, sent[name].shape))
        ]
        for name in ("weight", "scale")
    }
    return found, norm > limit


@pytest.mark.parametrize("limit", [0.05, 1.0, 5.0, 1e6])
def test_a_longer_step_becomes_as_long_as_is_allowed(limit):
    updates = {5: Update(FAR, 10, {"loss": 1.0}), 2: Update(NEAR, 3)}
    found, longer = clip(updates, SENT, limit)
    expected = []
    for client, update in updates.items():
        values, farther = slow(update.arrays, SENT, limit)
        expected += [client] if farther else []
        for name, numbers in values.items():
            assert found[client].arrays[name].dtype == np.float32
            np.testing.assert_allclose(found[client].arrays[name].ravel(), numbers, rtol=1e-6)
        assert found[client].arrays["count"] == update.arrays["count"]
        assert found[client].samples == update.samples and found[client].metrics == update.metrics
        if not farther:
            assert found[client] is update, "what is near stays as it is, to the bit"
    assert longer == sorted(expected)


def test_the_largest_numbers_there_are_do_not_overflow():
    largest = {name: np.full_like(array, np.finfo(np.float32).max) for name, array in SENT.items() if name != "count"}
    found, longer = clip({0: Update(largest, 1)}, {n: SENT[n] for n in largest}, 2.0)
    step = sum(np.square(found[0].arrays[name].astype(float) - SENT[name]).sum() for name in largest)
    assert longer == [0] and math.sqrt(step) == pytest.approx(2.0, rel=1e-5)
    with np.errstate(all="raise"):
        huge = {"x": np.full(3, 1e300)}
        found, _ = clip({0: Update(huge, 1)}, {"x": np.ones(3)}, 2.0)
    assert np.isfinite(found[0].arrays["x"]).all()


def test_the_order_of_names_changes_no_bit():
    turned = {name: FAR[name] for name in reversed(FAR)}
    one, other = (clip({0: Update(arrays, 1)}, SENT, 0.3)[0][0].arrays for arrays in (FAR, turned))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


OPTIONS = {"clients": 4, "rounds": 3, "partition": {"kind": "iid"}, "private": [mlp(16)], "proxy": mlp(8)}


@pytest.mark.parametrize("method", ["fedavg", "energy_gated", "feddf"])
def test_a_client_that_scales_by_1e30_does_no_harm(method, tmp_path):
    faults = {"scale": {"1": 1e30}}
    harmed = play(tmp_path / "harmed", method, faults=faults, **OPTIONS)
    found = play(tmp_path / "found", method, faults=faults, aggregation={"clip_norm": 1.0}, **OPTIONS)
    calm = play(tmp_path / "calm", method, aggregation={"clip_norm": 1.0}, **OPTIONS)
    assert all(1 in row["clipped"] for row in found["rounds"])
    best = "accuracy"
    assert found["test"]["last"][best] > calm["test"]["last"][best] - 0.3 and found["test"]["last"][best] > 0.4
    if method == "fedavg":
        assert harmed["test"]["last"][best] < 0.3
    rows = [json.loads(line) for line in (tmp_path / "found" / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/clipped"] for row in rows[:3]] == [len(row["clipped"]) for row in found["rounds"]]


def test_a_bound_that_nobody_reaches_changes_no_bit(tmp_path):
    free = play(tmp_path / "free", "fedavg", **OPTIONS)
    found = play(tmp_path / "found", "fedavg", aggregation={"clip_norm": 1e9}, **OPTIONS)
    assert [row.pop("clipped") for row in found["rounds"]] == [[], [], []]
    assert plain(found) == plain(free)


def test_predictions_are_no_steps_and_stay(tmp_path):
    free = play(tmp_path / "free", "fedmd", **OPTIONS)
    found = play(tmp_path / "found", "fedmd", aggregation={"clip_norm": 1e-6}, **OPTIONS)
    assert plain(found) == plain(free)


@pytest.mark.parametrize("wrong", [0, -1.0, math.inf, math.nan])
def test_a_bound_is_a_finite_number_above_0(wrong):
    with pytest.raises(UserError, match="clip_norm"):
        Rules(3, 2, clip_norm=wrong)
