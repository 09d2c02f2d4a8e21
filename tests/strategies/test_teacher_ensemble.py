"""strategy=teacher_ensemble: which stages it asks for, and what is refused."""

import pytest

from kdrun.job.compose import compose
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.teacher_ensemble import TeacherEnsemble
from kdrun.strategies.unused import StageCollector, refuse_unused
from kdrun.strategies.vanilla import Vanilla


def asked(strategy, *words):
    cast, lab = (
        Cast(compose(["student=mlp_8", "teacher.seed=3", "trainer.epochs=2", *words]).cells[0]),
        StageCollector(),
    )
    strategy.run(lab, cast)
    return lab.stages


def test_teachers_of_one_make_with_seeds_of_their_own_teach_together():
    *teachers, student = asked(TeacherEnsemble(teachers=3))
    assert [stage.seed for stage in teachers] == [3, 1003, 2003]
    assert len({str(stage.learner) for stage in teachers}) == 1 and not any(stage.teachers for stage in teachers)
    assert [result.stage for result in student.teachers] == teachers and student.drop == 0.0


def test_one_teacher_is_vanilla():
    assert asked(TeacherEnsemble(teachers=1)) == asked(Vanilla())


def test_no_teacher_at_all_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        refuse_unused([compose(["strategy=teacher_ensemble", "student=mlp_8", "strategy.teachers=0"])])


def test_weights_of_one_teacher_are_refused(tmp_path):
    weights = tmp_path / "a.safetensors"
    weights.touch()
    with pytest.raises(UserError, match="weights are those of one"):
        compose(["strategy=teacher_ensemble", "student=mlp_8", f"teacher.weights={weights}"])
