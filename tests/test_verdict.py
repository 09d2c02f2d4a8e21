"""What a verdict says of a difference, and what would settle one that is open."""

from __future__ import annotations

import pytest
from test_summary import judged

from kdrun.differences import read_difference
from kdrun.job.cells import expected
from kdrun.job.compose import compose
from kdrun.job.summary import judged_within
from kdrun.present.verdict import seconds_of_a_seed, settle_command, to_settle, verdict, verdict_of
from kdrun.problems import UserError
from kdrun.tables.metrics import measure
from kdrun.tables.render import _value

WORDS = ["data=digits", "seeds=3", "objective.kd.temperature=4"]


def spread(middle, *steps):
    return [middle + step for step in steps]


def test_an_effect_has_interval_p_method_and_n():
    text = judged(0.95, spread(0.85, 0, 0.002, -0.001), spread(0.90, 0.001, 0, -0.001))["verdict"]
    assert text.startswith(
        "Distillation helped: +4.97 points over the student alone, last epoch (95 % interval +4.59 to +5.35, p < 0.001; paired t, n = 3 seeds)."
    )
    assert judged(0.95, [0.90, 0.91, 0.90], [0.85, 0.86, 0.851])["verdict"].startswith(
        "Distillation hurt: -4.97 points"
    )


def test_what_is_not_shown_is_undecided_and_says_what_could_have_been_seen():
    summary = judged(0.95, [0.85, 0.86, 0.84], [0.87, 0.86, 0.86])
    text = summary["verdict"]
    assert text.startswith(
        "Undecided: +1.33 points over the student alone, last epoch (95 % interval -1.54 to +4.20, p = 0.184; paired t, n = 3 seeds)."
    )
    assert "These seeds could have shown 3.77 points or more (80 % power)." in text
    assert "About 9 seeds would settle an effect of this size." in text
    for withdrawn in ("clear effect", "no effect", "no gain"):
        assert withdrawn not in text.lower()


def test_what_takes_more_than_a_hundred_seeds_is_not_worth_settling():
    summary = judged(0.95, [0.80, 0.90, 0.85, 0.84], [0.90, 0.80, 0.84, 0.86])
    assert summary["verdict"].endswith("not worth settling (more than 100 seeds).")
    assert to_settle(summary, stages(), WORDS) is None


def test_an_interval_within_the_margin_says_that_no_larger_difference_is_there():
    text = judged(0.95, [0.850, 0.860, 0.840, 0.855], [0.8505, 0.8595, 0.8402, 0.8551])["verdict"]
    assert text.startswith("No difference larger than 0.50 points: +0.01 points over the student alone")
    assert "could have shown" not in text


def test_the_margin_of_a_config_decides_what_is_small():
    summary = judged(0.95, [0.850, 0.860, 0.840, 0.855], [0.856, 0.862, 0.837, 0.858])
    assert summary["verdict"].startswith("Undecided") and "margin" not in summary["difference"]["last"]
    judged_within(summary, 0.01)
    assert verdict(summary).startswith("No difference larger than 1.00 points: +0.20 points over the student alone")
    assert read_difference(summary["difference"]["last"]).margin == 0.01
    record = {"summary": summary, "seeds": [0, 1, 2, 3], "stages": [], "config": {"strategy": {}, "margin": 0.01}}
    found = measure(record, "alone", "difference")
    cell = {"metric": "difference", "applies": True, "n": 4, "of": 4, "values": found.values}
    assert _value(cell, "last").endswith("within 1.00")


def test_a_margin_changes_no_stage_and_is_typed_as_a_share():
    usual, wide = compose(["seeds=2"]), compose(["seeds=2", "margin=0.02"])
    assert usual.hash == compose(["seeds=2", "margin=null"]).hash != wide.hash and wide.config["margin"] == 0.02
    assert expected(usual.config) == expected(wide.config)
    with pytest.raises(UserError, match=r"margin=1: expected a share below 1.*a point is margin=0.01"):
        compose(["margin=1"])
    assert compose(["model=causal_lm", "margin=1", "seed=0"]).config["margin"] == 1  # bits per byte


def test_one_seed_says_nothing_about_chance():
    assert "one seed, which says nothing about chance" in judged(0.95, [0.85], [0.9])["verdict"]


def test_a_job_with_several_controls_is_corrected_over_them():
    from test_summary import stage

    def arm(kind, values):
        return {seed: {**stage("alone", seed, 3, 0.0), "fingerprint": f"{kind}{seed}", "test": {w: {"accuracy": v} for w in ("best", "last")}}
                for seed, v in enumerate(values)}  # fmt: skip

    alone, student = [0.85, 0.842, 0.853], [0.87, 0.87, 0.868]
    single = judged(0.95, alone, student)
    assert (
        single["verdict"].startswith("Distillation helped") and 0.025 < single["difference"]["best"]["p_value"] < 0.05
    )
    both = judged(0.95, alone, student, equal_compute=arm("equal_compute", [0.86, 0.88, 0.87]))
    found = {name: one["best"] for name, one in both["differences"].items()}
    assert found["alone"]["p_holm"] == pytest.approx(2 * found["alone"]["p_value"])
    assert both["verdict"].startswith("Undecided") and "by Holm over 2 comparisons" in both["verdict"]
    same = judged(0.95, alone, student, equal_compute=arm("alone", alone))
    found = {name: one["best"] for name, one in same["differences"].items()}
    assert same["arms"]["equal_compute"]["same_as"] == "alone" and found["alone"] == found["equal_compute"]
    assert found["alone"]["comparisons"] == 1, "stages that are the same are compared once"


def stages(seeds=3, teachers=1):
    entries = [("teacher", seed, 50.0) for seed in range(teachers)]
    entries += [
        (role, seed, seconds) for seed in range(seeds) for role, seconds in (("alone", 4.0), ("student", 6.0 + seed))
    ]
    return [
        {"role": role, "seed": seed, "fingerprint": f"{role}{seed}", "cost": {"seconds": s}}
        for role, seed, s in entries
    ]


def test_what_would_settle_it_is_a_command_with_the_measured_time():
    summary = judged(0.95, [0.85, 0.86, 0.84], [0.87, 0.86, 0.86])
    found = to_settle(summary, stages(), WORDS)
    assert found == {
        "seeds": 9,
        "seconds": pytest.approx(6 * 11.0),
        "command": "kdrun data=digits objective.kd.temperature=4 seeds=9",
    }
    assert seconds_of_a_seed(stages(teachers=3)) == pytest.approx(61.0), "every seed has a teacher of its own"
    assert seconds_of_a_seed(stages(1)) is None
    assert to_settle(judged(0.95, [0.85, 0.851, 0.852], [0.9, 0.901, 0.903]), stages(3), WORDS) is None
    assert to_settle(judged(0.95, [0.85], [0.86]), stages(1), WORDS) is None


def test_a_record_that_resampled_seeds_is_judged_again():
    summary = judged(0.95, [0.85, 0.86, 0.84], [0.87, 0.86, 0.86])
    old = {
        "mean": 0.0133,
        "n": 3,
        "sd": 0.0115,
        "interval": [0.0, 0.02],
        "interval_t": [-0.0154, 0.042],
        "values": [0.02, 0.0, 0.02],
    }
    summary |= {"difference": {"best": old, "last": old}, "verdict": "No clear effect: ..."}
    record = {"summary": summary, "stages": stages(), "overrides": WORDS}
    text = verdict_of(record)
    assert text.startswith("Undecided: +1.33 points") and "About 9 seeds (66 s) would settle" in text
    assert settle_command(record).endswith("seeds=9")
    assert verdict_of({"summary": {"verdict": "kept"}}) == "kept" and verdict_of({}) is None
