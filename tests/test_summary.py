from __future__ import annotations

import pytest
from plots.records import stage

from kdrun import kinds
from kdrun.differences import read_difference
from kdrun.job.summary import summarise
from kdrun.present.results import arm_label, difference_rows, distinct, result_rows
from kdrun.records import better_of
from kdrun.tables.metrics import difference_in, measure
from kdrun.tables.render import _value, printed_cell

LABELS = {"alone": "student alone", "student": "student, distilled", "equal_compute": "student alone, as many steps"}


def judged(teacher, alone, student, metric="accuracy", task=None, **more):
    """The summary of these test scores, one for each seed."""

    def records(kind, values):
        return {
            seed: {
                **stage(kind, seed, 3, 0.0),
                "fingerprint": f"{kind}{seed}",
                "test": {w: {metric: v} for w in ("best", "last")},
                **({"task": task} if task else {}),
            }
            for seed, v in enumerate(values)
        }

    arms = {"student": records("student", student), "alone": records("alone", alone), **more}
    teachers = dict.fromkeys(range(len(student)), records("teacher", [teacher])[0])
    return summarise(metric, arms, LABELS, teachers, range(len(student)), {})


def test_a_share_of_a_gap_that_may_be_nothing_is_not_told():
    clear = judged(0.95, [0.85, 0.85, 0.85], [0.90, 0.90, 0.90])
    assert clear["gap_closed"]["best"] == pytest.approx(0.5)
    for teacher, alone in ((0.8502, [0.85, 0.85]), (0.80, [0.85, 0.85]), (0.86, [0.80, 0.90])):
        summary = judged(teacher, alone, [0.87, 0.87])
        assert summary["gap_closed"] == {"best": None, "last": None}, (teacher, alone)
        assert "there is no gap to close" in summary["verdict"]


def test_an_arm_that_is_another_ones_stages_is_not_printed_twice():
    first = judged(0.95, [0.85, 0.86], [0.9, 0.91])
    alone = {seed: {**stage("alone", seed, 3, 0.0), "fingerprint": f"alone{seed}", "test": {w: {"accuracy": v} for w in ("best", "last")}}
             for seed, v in enumerate((0.85, 0.86))}  # fmt: skip
    summary = judged(0.95, [0.85, 0.86], [0.9, 0.91], equal_compute=alone)
    assert summary["arms"]["equal_compute"]["same_as"] == "alone" and "same_as" not in first["arms"]["alone"]
    assert list(distinct(summary["arms"])) == ["student", "alone"]
    assert arm_label(summary["arms"], "alone") == "student alone (= student alone, as many steps)"
    assert len(result_rows(summary)) == len(result_rows(first))
    assert len(difference_rows(summary)) == len(difference_rows(first))


def test_one_seed_is_called_one_seed():
    records = {0: {**stage("alone", 0, 3, 0.0), "fingerprint": "x"}}
    assert "1 seed;" in summarise("accuracy", {"alone": records}, LABELS, {}, [0], {})["verdict"]


BITS = {"metric": "bits_per_byte", "task": "causal_lm"}


def test_a_student_with_more_bits_per_byte_is_told_as_worse():
    worse = judged(0.90, [1.00, 1.01, 0.99], [1.10, 1.12, 1.08], **BITS)
    assert worse["better"] == "min" and worse["difference"]["best"]["improvement"] == 0
    assert worse["verdict"].startswith(
        "Distillation hurt: +0.1000 bits per byte over the student alone, last epoch, less is better (95 %"
    )
    assert worse["gap_closed"]["best"] == pytest.approx(-1)
    better = judged(0.90, [1.00, 1.01, 0.99], [0.94, 0.955, 0.925], **BITS)
    assert better["verdict"].startswith("Distillation helped: -0.0600") and better["gap_closed"][
        "best"
    ] == pytest.approx(0.6)
    assert better["difference"]["best"]["improvement"] == 1
    none = judged(1.05, [1.00, 1.01, 0.99], [0.94, 0.955, 0.925], **BITS)
    assert none["gap_closed"]["best"] is None and "there is no gap to close" in none["verdict"]


def test_what_tables_compare_and_searches_read_knows_it_too():
    summary = judged(0.90, [1.00, 1.01, 0.99], [1.10, 1.12, 1.08], **BITS)
    assert better_of(summary) == "min" and better_of({"metric": "loss"}) == "min" and better_of({}) == "max"
    assert read_difference(summary["difference"]["best"]).decision(None) == "worse"
    record = {"summary": summary, "seeds": [0, 1, 2], "stages": [], "config": {"strategy": {}}}
    found = measure(record, "alone", "difference")
    cell = {"metric": "difference", "applies": True, "unit": found.unit, "n": 3, "of": 3, "values": found.values}
    found = difference_in(cell, "best")
    assert found.decision(found.margin) == "worse" and found.margin is None
    assert _value(cell, "best").startswith("+0.1000 [+0.0752, +0.1248], p = ")
    summary["arms"]["student"]["wins"] = {which: {"mean": 0.25, "sd": 0.05} for which in ("best", "last")}
    won = measure(record, "student", "wins")
    assert printed_cell({"metric": "wins", "bold": False, "marks": (), **vars(won)}, "last").text == "25.00 ± 5.00"
    assert not measure(record, "alone", "wins").applies
    assert kinds.better("causal_lm", "token_accuracy") == "max" and kinds.better("nobody's", "perplexity") == "min"
