"""Which epoch is the headline: the last, unless validation can tell the best from it."""

from __future__ import annotations

import pytest
from test_looks import script

from kdrun.job.selection import headline_of, needed_gain


def arm(name, best, last, samples, epochs=40, monitor="accuracy", seeds=2):
    val = {"best": {monitor: best}, "last": {monitor: last}, "epoch_best": 3, "epochs": epochs}
    return {
        seed: {"val": val, "monitor": monitor, "validation": samples, "fingerprint": f"{name}{seed}"}
        for seed in range(seeds)
    }


def test_the_noise_of_two_shares_is_that_of_their_samples():
    from math import sqrt

    from scipy.stats import norm

    wanted = norm.ppf(1 - 0.05 / 39) * sqrt((0.8 * 0.2 + 0.7 * 0.3) / 1000)
    assert needed_gain("accuracy", [(0.8, 0.7)], 1000, 39) == pytest.approx(wanted)
    assert needed_gain("accuracy", [(0.8, 0.7)], 1000, 78) > wanted > needed_gain("accuracy", [(0.8, 0.7)], 4000, 39)
    assert needed_gain("accuracy", [(0.8, 0.7)], None, 39) is None is needed_gain("own", [(0.8, 0.7)], 1000, 39)
    assert needed_gain("accuracy", [(0.8, 0.7)], 1000, 0) is None, "one epoch"


@pytest.mark.parametrize(
    ("samples", "best", "last", "which"),
    [(201, 0.82, 0.79, "last"), (10_000, 0.82, 0.79, "best"), (10_000, 0.801, 0.80, "last"), (None, 0.9, 0.5, "last")],
)
def test_the_best_epoch_has_to_stand_out(samples, best, last, which):
    found = headline_of({"student": arm("student", best, last, samples), "alone": arm("alone", 0.8, 0.8, samples)})
    assert found["which"] == which and found["arms"]["student"]["gain"] == pytest.approx(best - last)
    assert samples is None or ("does not stand out" in found["why"]) == (which == "last")


def test_one_arm_that_overfits_is_enough_and_arms_are_looked_at_together():
    arms = {"student": arm("student", 0.80, 0.80, 10_000), "alone": arm("alone", 0.84, 0.79, 10_000)}
    assert headline_of(arms)["which"] == "best"
    alone = headline_of({"alone": arms["alone"]})["arms"]["alone"]["needed"]
    assert headline_of(arms)["arms"]["alone"]["needed"] > alone
    assert headline_of({**arms, "equal_compute": arms["alone"]})["arms"]["alone"]["needed"] == pytest.approx(
        headline_of(arms)["arms"]["alone"]["needed"]
    ), "the same stages are looked at once"


def test_a_loss_is_better_where_it_is_lower():
    assert headline_of({"alone": arm("alone", 0.5, 0.9, 10_000, monitor="loss")})["which"] == "best"
    assert headline_of({"alone": arm("alone", 0.5, 0.51, 201, monitor="loss")})["which"] == "last"


def test_networks_together_have_one_result():
    val = {"best": {"auc": 0.9}, "last": {"auc": 0.9}, "epoch_best": None, "epochs": 0}
    assert headline_of({"student": {0: {"val": val, "monitor": "auc"}}})["which"] == "best"


def test_simulated_jobs():
    module = script("simulate_selection")
    flat = module.simulated(module.plateau, 201, 30, 2)
    assert flat["best"] <= 0.05 and flat["gain"] < 0 == flat["headline"], "the best epoch is worse, and is not taken"
    fallen = module.simulated(module.overfitting, 10_000, 2, 2)
    assert fallen["best"] == 1.0 and fallen["headline"] > 2
