"""An objective that does not fit a task is refused with some that do."""

import pytest

import kdrun
from kdrun.learning.fitting import fitting
from kdrun.problems import UserError

WORDS = (
    "teacher=mlp_16",
    "student=mlp_8",
    "trainer.epochs=1",
    "data=digits",
    "tracker=none",
    "card=false",
    "hardware=cpu",
)


def test_objectives_that_a_task_has_everything_for():
    classes = fitting({"student_logits", "teacher_logits", "targets"})
    assert {"kd", "dist", "ce"} <= {*classes} and not {"mse_kd", "bce_kd", "at", "crd"} & {*classes}
    assert classes.index("kd") < classes.index("ce"), "what compares with a teacher comes first"
    assert fitting({"student_label_logits", "teacher_label_logits", "targets"}) == ["bce_kd", "bce"]


def test_of_classes_numbers_are_refused_with_what_fits(tmp_path):
    with pytest.raises(UserError) as told:
        kdrun.run(*WORDS, "objective=mse_kd", f"paths.outputs={tmp_path}")
    assert told.value.lines[0].startswith("objective.mse wants ") and "data.task=classification" in told.value.lines[0]
    assert told.value.lines[1].startswith("objectives that fit: ") and "fit: kd, " in told.value.lines[1]
