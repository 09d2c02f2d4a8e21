from __future__ import annotations

import pytest
from plots.records import stage

from kdrun.job.summary import summarise
from kdrun.present.results import arm_label, difference_rows, distinct, result_rows

LABELS = {"alone": "student alone", "student": "student, distilled", "equal_compute": "student alone, as many steps"}


def judged(teacher, alone, student, **more):
    """The summary of these test accuracies, one for each seed."""

    def records(kind, values):
        return {
            seed: {
                **stage(kind, seed, 3, 0.0),
                "fingerprint": f"{kind}{seed}",
                "test": {w: {"accuracy": v} for w in ("best", "last")},
            }
            for seed, v in enumerate(values)
        }

    arms = {"student": records("student", student), "alone": records("alone", alone), **more}
    teachers = dict.fromkeys(range(len(student)), records("teacher", [teacher])[0])
    return summarise("accuracy", arms, LABELS, teachers, range(len(student)), {})


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
