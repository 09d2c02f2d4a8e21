"""A job whose teacher and split differ with the student's seed: each seed is a draw of its own, shared by all arms."""

from __future__ import annotations

import pytest

import kdrun
from kdrun.cli import main

WORDS = (
    "teacher=cnn_small",
    "student=mlp_16",
    "hardware=cpu",
    "tracker=none",
    "card=false",
    "trainer.epochs=4",
    "seeds=2",
)
VARY = "seeds.vary=[student,teacher,split]"
FEW = ("data.limit.train=200", "teacher.data.limit.train=null")


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vary")
    return kdrun.run(*WORDS, VARY, *FEW, "controls=[equal_compute,plain_kd]", f"paths.outputs={folder}/outputs")


def of(view, role: str) -> dict[int, dict]:
    return {stage["seed"]: stage for stage in view.stages if stage["role"] == role}


def test_every_seed_has_its_own_teacher_and_its_arms_share_it(view):
    teachers, students = of(view, "teacher"), of(view, "student")
    assert view.summary["teacher"]["n"] == 2 and set(teachers) == set(students) == {0, 1}
    assert teachers[0]["fingerprint"] != teachers[1]["fingerprint"]
    for seed in (0, 1):
        assert students[seed]["teacher"]["fingerprint"] == teachers[seed]["fingerprint"]
        assert students[seed]["teacher"]["accuracy"] == pytest.approx(
            teachers[seed]["val"]["best"]["accuracy"], abs=1e-6
        )
    assert view.summary["difference"]["best"]["n"] == 2
    assert view.summary["arms"]["plain_kd"]["same_as"] == "student"


def test_networks_are_opened_with_the_split_of_their_seed(view, capsys):
    from kdrun.hardware.exports.subjects import data_of
    from kdrun.tracking.registry import find_run

    run = find_run(view.path.parent.parent, view.id)
    modules = [data_of(run, of(view, role)[seed]) for role, seed in (("student", 0), ("student", 1), ("teacher", 1))]
    tests = [set(module.samples("test").ids.tolist()) for module in modules]
    assert tests[0] != tests[1] == tests[2]
    assert [len(module.train_ids) for module in modules] == [200, 200, 1146]
    assert not tests[1] & set(modules[2].train_ids.tolist())


def test_what_differs_is_said(view, capsys):
    outputs = f"paths.outputs={view.path.parent.parent}"
    assert main(["show", view.id, outputs]) == 0
    assert "0,1, teacher and split differ with it" in " ".join(capsys.readouterr().out.split())
    assert main(["plan", *WORDS, VARY, *FEW, outputs]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "seeds [0, 1], teacher and split differ with it" in text
    assert text.count("1146 train") == 1 and "alone/seed=1" in text
