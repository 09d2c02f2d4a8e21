"""Shipped objectives that compare features, in whole stages: every one trains, and batches are whole where they have to be."""

import pytest

from kdrun.cli import main

from .stages import make_lab, teach

RESNETS = ("teacher=resnet14", "student=resnet8_w4", "trainer.epochs=1", "data.limit.train=128")
OBJECTIVES = {"fitnet": "hint", **{name: name for name in ("at", "sp", "pkt", "rkd", "nst", "cc")}}
WHOLE_BATCH = ("sp", "pkt", "rkd", "cc")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One store, so that the teacher is trained once."""
    return make_lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_shipped_objective_trains(name, lab):
    record = teach(lab, *RESNETS, f"objective={name}").record
    assert record["first_step"][OBJECTIVES[name]]["gradient"] > 0
    assert record["first_step"]["ce"]["gradient"] > 0


@pytest.mark.parametrize("name", WHOLE_BATCH)
def test_accumulation_is_refused_where_the_samples_of_a_batch_are_compared(name, capsys):
    assert main(["plan", *RESNETS, f"objective={name}", "student.trainer.accumulate=2", "hardware=cpu"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"trainer.accumulate=2: objective.{name} compares the samples of a batch with each other" in said
