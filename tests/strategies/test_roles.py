"""Every stage of a run has a name of its own, and no two are taken together by it."""

from __future__ import annotations

import sys

import pytest

import kdrun
from kdrun.job.compose import compose
from kdrun.problems import UserError

MINE = """
from dataclasses import dataclass
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import distil, supervised

@dataclass(frozen=True)
class Twice(Strategy):
    def run(self, lab, cast):
        teacher = lab.get(supervised(cast.teacher))
        first = lab.get(distil(cast.student, teacher, epochs=1))
        return lab.get(distil(cast.student, teacher, start=first))
"""
QUICK = ("teacher=mlp_64", "student=mlp_8", "trainer.epochs=3", "hardware=cpu", "tracker=none", "card=false")


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roles")
    (folder / "twicelab.py").write_text(MINE)
    sys.path.insert(0, str(folder))
    try:
        yield kdrun.run("strategy._target_=twicelab.Twice", "strategy.controls=[alone]", "targets.twicelab=true",
                        *QUICK, "seeds=2", f"paths.outputs={folder}/outputs")  # fmt: skip
    finally:
        sys.path.remove(str(folder))


def test_stages_of_one_learner_are_numbered_and_the_result_has_the_arms_name(view):
    assert [stage["label"] for stage in view.stages if stage["seed"] == 1 and stage["role"] != "teacher"] == [
        "student/seed=1", "student_2/seed=1", "alone/seed=1",
    ]  # fmt: skip
    results = {stage["seed"]: stage for stage in view.stages if stage["role"] == "student"}
    assert {seed: stage["label"] for seed, stage in results.items()} == {
        0: "student_2/seed=0",
        1: "student_2/seed=1",
    }
    assert [stage["role"] for stage in view.stages].count("student_1") == 2
    means = [stage["test"]["best"]["accuracy"] for stage in results.values()]
    assert view.accuracy() == pytest.approx(sum(means) / 2)
    assert kdrun.load(view, seed=1).kdrun["fingerprint"] == results[1]["fingerprint"]


def test_rows_energy_and_curves_take_each_stage_by_itself(view):
    from kdrun.records import stages_of

    rows = view.metrics()
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    assert {row["stage"] for row in rows} >= {"student/seed=0", "student_2/seed=0"}
    steps = [
        row["step"]
        for row in rows
        if row["stage"] == "student_2/seed=0" and row.get("val/accuracy") == row.get("val/accuracy")
    ]
    assert steps == sorted(steps)
    assert [stage["label"] for stage in stages_of(view.record, "student").values()] == [
        "student_2/seed=0",
        "student_2/seed=1",
    ]


def test_energy_shows_the_accuracy_of_the_result(view, capsys):
    import json

    from kdrun.cli import main

    assert main(["energy", view.id, "--json", f"paths.outputs={view.path.parent.parent}"]) == 0
    found = json.loads(capsys.readouterr().out)
    text = json.dumps(found)
    results = [stage["test"]["best"]["accuracy"] for stage in view.stages if stage["role"] == "student"]
    assert f"{sum(results) / 2:.10f}"[:8] in text


@pytest.mark.parametrize("name", ["student", "alone", "teacher", "plain_kd", "equal_compute", "takd"])
def test_names_of_other_stages_are_refused_for_assistants(name):
    words = [f"+assistants.{name}.network={{_target_: kdrun.networks.mlp.MLP}}", "strategy=evolving", *QUICK]
    with pytest.raises(UserError, match=rf"assistants\.{name}: .* name of other stages"):
        compose(words)


def test_an_assistant_without_a_name_is_called_by_its_key(tmp_path):
    node = "{_target_: kdrun.networks.mlp.MLP, hidden: [32]}"
    words = ("strategy=takd", f"+assistants.mid.network={node}", "+assistants.mid.name=null", *QUICK, "seed=0")
    assert compose(words).config["assistants"]["mid"]["name"] == "mid"
    assert compose([word for word in words if "name=null" not in word]).hash == compose(words).hash
    view = kdrun.run(*words, f"paths.outputs={tmp_path}/outputs", quiet=False)
    assert [stage["learner"] for stage in view.stages if stage["role"] == "taught_mid"] == ["mid"]
