"""kdrun plan of distillation: what the first step is measured with, and everybody who teaches."""

from __future__ import annotations

import pytest

import kdrun
from kdrun.cli import main

WORDS = ("teacher=mlp_64", "student=mlp_8", "trainer.epochs=3", "hardware=cpu", "tracker=none", "card=false", "seed=0")

LADDER = ("student=mlp_8", *WORDS[2:])


def stage_of(plan: dict, role: str) -> dict:
    return next(stage for stage in plan["stages"] if stage["label"] == f"{role}/seed=0")


@pytest.mark.parametrize(
    "more", [(), ("objective.feature.weight=1",), ("objective.kd.weight=0.5", "teacher.source=online")]
)
def test_the_first_step_is_that_of_the_run_where_the_teacher_is_stored(tmp_path, more, capsys):
    words = ("strategy=vanilla", *WORDS, *more, f"paths.outputs={tmp_path}/outputs")
    before = stage_of(kdrun.plan(*words), "student")
    assert before["untrained"] == ["teacher mlp_64"]
    assert main(["plan", *words]) == 0
    assert "first step with random weights of teacher mlp_64: not in the store yet" in capsys.readouterr().out
    view = kdrun.run(*words)
    run = next(stage for stage in view.stages if stage["role"] == "student")["first_step"]
    other = stage_of(
        kdrun.plan(*words, "trainer.clip=9"), "student"
    )  # another student, the same teacher: not the same one
    assert other["untrained"] == ["teacher mlp_64"]
    after = stage_of(kdrun.plan(*words, "student.trainer.clip=9"), "student")
    assert after["untrained"] == [] and after["status"] == "new"
    assert set(after["terms"]) == set(run)
    for name, found in run.items():
        assert after["terms"][name]["value"] == pytest.approx(found["value"], rel=1e-4)
        assert after["terms"][name]["gradient"] == pytest.approx(found["gradient"], rel=1e-3)
    if name != "ce":
        assert before["terms"][name]["value"] != pytest.approx(run[name]["value"], rel=1e-2)


def test_all_teachers_of_a_step_are_shown(tmp_path, capsys):
    words = ("strategy=cascaded", "strategy.scheme=joint", "strategy.controls=[]", "strategy.stages_per_teacher=dft_only",
             "model=mlp_ladder", *LADDER, f"paths.outputs={tmp_path}/outputs")  # fmt: skip
    student = stage_of(kdrun.plan(*words), "student")
    assert student["teacher"]["learner"] == "mlp_1024"
    assert [one["learner"] for one in student["teacher"]["also"]] == ["mlp_256", "mlp_64"]
    assert student["untrained"] == ["teacher mlp_1024", "teacher mlp_256", "teacher mlp_64"]
    assert main(["plan", *words]) == 0
    shown = capsys.readouterr().out
    assert "teacher mlp_1024" in shown and "and teacher mlp_64" in shown
    run = kdrun.run(*words).stages[-1]["first_step"]
    after = stage_of(kdrun.plan(*words), "student")["terms"]
    assert after["kd"]["value"] == pytest.approx(run["kd"]["value"], rel=1e-4)


def test_a_start_that_is_there_is_what_the_first_step_is_measured_from(tmp_path):
    words = ("strategy=evolving", "strategy.controls=[]", "model=mlp_ladder", *LADDER,
             f"paths.outputs={tmp_path}/outputs")  # fmt: skip
    assert stage_of(kdrun.plan(*words), "student")["untrained"] == ["start", "teacher mlp_1024"]
    run = kdrun.run(*words).stages[-1]["first_step"]
    student = stage_of(kdrun.plan(*words), "student")
    assert student["untrained"] == []
    assert student["terms"]["ce"]["value"] == pytest.approx(run["ce"]["value"], rel=1e-4)
