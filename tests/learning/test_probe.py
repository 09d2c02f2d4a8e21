"""What `kdrun plan` computes of a step, and for which device it says how long a step takes."""

import json

import pytest

from kdrun.cli import main
from kdrun.learning import probe as probing
from kdrun.learning import step_sizes

WORDS = [
    "plan",
    "data=digits",
    "student=resnet8_w2",
    "teacher=resnet8_w4",
    "strategy.controls=[]",
    "tracker=none",
    "trainer.epochs=2",
]


@pytest.fixture
def plan(tmp_path, capsys):
    def planned(*words):
        assert main([*WORDS, f"paths.outputs={tmp_path}/outputs", *words, "--json"]) == 0
        return {stage["label"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}

    return planned


def test_a_target_that_is_not_here_has_times_of_its_own_and_one_without_figures_has_none(plan, capsys):
    here, h200, gpu = (plan(f"hardware={name}")["student/seed=0"] for name in ("cpu", "h200", "gpu"))
    assert (here["estimate"]["on"], h200["estimate"]["on"], gpu["estimate"]["on"]) == ("cpu", "h200", None)
    assert here["estimate"]["seconds"] > 0 and h200["estimate"]["seconds"] > 0 and gpu["estimate"]["seconds"] is None
    assert h200["terms"].keys() == here["terms"].keys() == {"ce", "kd"}
    assert "measured" in here["estimate"]["method"] and "roofline" in h200["estimate"]["method"]


def test_a_step_has_as_many_samples_as_can_be_afforded_and_its_time_is_that_of_a_whole_one(plan, monkeypatch):
    seen = []

    def loader(stage, module, objective, batch_size, make=probing._loader):
        seen.append(batch_size)
        return make(stage, module, objective, batch_size)

    monkeypatch.setattr(probing, "_loader", loader)
    monkeypatch.setattr(probing, "_step", lambda *arguments: 0.5)
    flops = plan("trainer.batch_size=128")["teacher/seed=0"]["flops"]
    assert seen == [128, 128]
    seen.clear()
    monkeypatch.setattr(step_sizes, "OPERATIONS", 3 * flops * 10)
    estimate = plan("trainer.batch_size=128")["teacher/seed=0"]["estimate"]
    assert seen[:2] == [128, 11]  # ten samples of the 120 that a batch has on average
    assert estimate["seconds"] == pytest.approx(1.1 * 0.5 * estimate["samples"] / 11, rel=0.1)


def test_of_a_network_that_is_too_large_shapes_are_told_and_nothing_is_built(plan, monkeypatch, capsys):
    monkeypatch.setattr(step_sizes, "LARGEST", 100)
    monkeypatch.setattr(probing, "build_network", None)
    stage = plan("hardware=h200")["student/seed=0"]
    assert stage["terms"] == {} and stage["estimate"]["seconds"] > 0 and "parameters" in stage["too_large"]
    assert main([*WORDS, "hardware=h200"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "no step was computed for this plan" in text and "on h200" in text
