"""Which epoch is the headline: the last, unless validation can tell the best from it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_looks import script

from kdrun.cli import main
from kdrun.job.selection import headline_of, noise_of, paired_noise, quantile
from kdrun.learning.resampling import SELECTION, read_samples


def arm(name, best, last, samples, epochs=40, monitor="accuracy", seeds=2):
    val = {"best": {monitor: best}, "last": {monitor: last}, "epoch_best": 3, "epochs": epochs}
    return {
        seed: {"val": val, "monitor": monitor, "validation": samples, "fingerprint": f"{name}{seed}"}
        for seed in range(seeds)
    }


def test_the_noise_of_two_shares_is_that_of_their_samples():
    from math import sqrt

    from scipy.stats import norm

    wanted = sqrt((0.8 * 0.2 + 0.7 * 0.3) / 1000)
    assert (
        noise_of("accuracy", [(0.8, 0.7)], 1000)
        == pytest.approx(wanted)
        == noise_of("accuracy", 3 * [(0.8, 0.7)], 1000)
    )
    assert noise_of("accuracy", [(0.8, 0.7)], None) is None is noise_of("own", [(0.8, 0.7)], 1000)
    assert quantile(39) == pytest.approx(norm.ppf(1 - 0.05 / 39)) and quantile(78) > quantile(39)


def test_paired_noise_is_that_of_a_mean_over_resampled_samples():
    random = np.random.default_rng(0)
    hard = random.standard_normal(400)
    seeds = [(hard + random.standard_normal(400) > 0.3).astype(float) - (hard > 0.5) for _ in range(2)]
    draws = random.integers(400, size=(4000, 400))
    apart = [dict(enumerate(seed)) for seed in seeds]
    assert paired_noise(apart[:1]) == pytest.approx(np.std(seeds[0][draws].mean(1)), rel=0.05)
    both = [paired_noise([seed]) for seed in apart]
    assert paired_noise(apart) == pytest.approx(np.mean(both)), "the luck of choosing does not average out"
    assert paired_noise([apart[0], {}]) == both[0], "one seed whose last epoch is its best"
    assert paired_noise([apart[0], None]) is None is paired_noise([{}, {}])


def test_without_another_epoch_that_is_better_no_noise_is_spoken_of():
    once = headline_of({"student": arm("student", 0.8, 0.8, 201, epochs=1)})
    assert once["which"] == "last" and once["why"] == "there was one epoch"
    rising = headline_of({"student": arm("student", 0.8, 0.8, 201)})
    assert rising["which"] == "last" and rising["why"] == "on 201 validation samples no epoch is better"
    unknown = headline_of({"student": arm("student", 0.8, 0.8, 201, monitor="mine")})
    assert "is not known" in unknown["why"]


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
    together = {"student": {0: {"val": val, "monitor": "auc"}}}
    assert headline_of(together)["which"] == "best"
    assert headline_of({**together, "alone": arm("alone", 0.8, 0.79, 201)})["which"] == "best", "what can be compared"


@pytest.mark.parametrize("words", ["teacher=mlp_64 student=mlp_8 seeds=2"])
def test_a_job_keeps_how_right_both_epochs_are_of_every_validation_sample(words, tmp_path, capsys):
    small = "data.limit.train=200 trainer.epochs=16 trainer.optimizer.lr=0.3 teacher.tolerance=1 tracker=none hardware=cpu card=false"
    assert main([*words.split(), *small.split(), f"paths.outputs={tmp_path}", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    kept, epochs = 0, 0
    for path in (tmp_path / "store").rglob("record.json"):
        record, rows = json.loads(path.read_text()), read_samples(path.parent, SELECTION)
        epochs += record["val"]["epoch_best"] != 15
        kept += bool(rows)
        for which in ("best", "last") if rows else ():
            assert np.mean([row[which] for row in rows]) == pytest.approx(record["val"][which]["accuracy"])
    assert kept == epochs > 0
    found = summary["headline"]
    clear = any(arm["needed"] is not None and arm["gain"] > arm["needed"] for arm in found["arms"].values())
    assert found["samples"] == 201 and found["which"] == ("best" if clear else "last")
    assert all(arm["needed"] is None or 0 < arm["needed"] < 0.15 for arm in found["arms"].values())


def test_simulated_jobs():
    module = script("simulate_selection")
    flat = module.simulated(module.plateau, 201, 30, 2)
    assert flat["kept"] <= 0.05 and flat["gain"] < 0 == flat["headline"], "the best epoch is worse, and is not taken"
    fallen = module.simulated(module.overfitting, 10_000, 2, 2)
    assert fallen["kept"] == 1.0 == fallen["not kept"] and fallen["headline"] > 0.02
