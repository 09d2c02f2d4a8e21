"""Controls of kdrun itself, the table `controls` in small: distillation helps where it must, and does not where it cannot."""

import pytest

import kdrun
from kdrun.differences import BETTER, SMALL, read_difference
from kdrun.problems import UserError

WORDS = (
    "teacher=mlp_256",
    "student=mlp_64",
    "hardware=cpu",
    "tracker=none",
    "card=false",
    "seeds=3",
    "trainer.epochs=12",
)


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """Words of a job -> how its difference to the student alone is decided, at the last epoch. All of them share a store."""
    outputs = tmp_path_factory.mktemp("controls") / "outputs"

    def decide(*words: str) -> str:
        run = kdrun.run(*WORDS, f"paths.outputs={outputs}", *words)
        return read_difference(run.record["summary"]["difference"]["last"]).decision()

    return decide


def test_a_teacher_of_all_labels_helps_where_there_are_few(decided):
    assert decided("data.labelled=60", "teacher.data.labelled=null") == BETTER


def test_a_clean_teacher_helps_under_wrong_labels(decided):
    assert decided("data.label_noise=0.6", "teacher.data.label_noise=0") == BETTER


def test_a_teacher_without_weight_changes_nothing(decided):
    assert decided("objective.kd.weight=0", "objective.ce.weight=1") == SMALL


def test_a_teacher_of_shuffled_labels_never_teaches(decided):
    with pytest.raises((UserError, kdrun.RunFailed), match="no better than"):
        decided("teacher.data.label_noise=0.9")
