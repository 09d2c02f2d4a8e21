"""Vanilla distillation: where the student starts."""

from __future__ import annotations

import pytest

from kdrun.job.compose import compose
from kdrun.lab.stages.base import Result
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.vanilla import Vanilla


class Notes:
    def __init__(self):
        self.stages = {}

    def get(self, stage):
        self.stages[stage.role] = stage.started(self.get)
        return Result(stage.role, stage, {})


@pytest.fixture(scope="module")
def cast():
    return Cast(compose(["strategy=vanilla", "trainer.epochs=2"]).cells[0])


@pytest.mark.parametrize("start", ["own", "teacher"])
def test_the_student_starts_from_its_teacher_on_request_and_alone_never(cast, start):
    lab, strategy = Notes(), Vanilla(start=start)
    strategy.run(lab, cast)
    for control in ("alone", "untaught"):
        strategy.control(control, lab, cast)
    starts = {role: stage.start and stage.start.fingerprint for role, stage in lab.stages.items()}
    begins = "teacher" if start == "teacher" else None
    assert starts == {"teacher": None, "student": begins, "alone": None, "untaught": begins}
    assert [role for role, stage in lab.stages.items() if stage.taught] == ["student"]


def test_the_default_is_in_no_hash():
    plain = compose(["strategy=vanilla"])
    assert compose(["strategy=vanilla", "strategy.start=own"]).hash == plain.hash
    assert compose(["strategy=vanilla", "strategy.start=teacher"]).hash != plain.hash
    with pytest.raises(UserError, match=r"start=techer.*teacher"):
        compose(["strategy=vanilla", "strategy.start=techer"])
