"""Strategies without a larger teacher: which stages, taught by whom, from which seeds, and what is refused."""

import re
from itertools import pairwise

import pytest

from kdrun.job.compose import compose
from kdrun.problems import UserError
from kdrun.strategies.born_again import BornAgain
from kdrun.strategies.cast import Cast
from kdrun.strategies.mean_teacher import MeanTeacher
from kdrun.strategies.mutual import Mutual
from kdrun.strategies.unused import StageCollector, refuse_unused


def asked(strategy, *words):
    """(the cast, the stages that a strategy asks for)."""
    cast, lab = Cast(compose(["student=mlp_8", "seed=3", "trainer.epochs=7", *words]).cells[0]), StageCollector()
    strategy.run(lab, cast)
    return cast, lab.stages


def test_each_generation_is_taught_by_the_one_before_and_begins_elsewhere():
    cast, stages = asked(BornAgain(generations=3))
    assert [stage.role for stage in stages] == ["generation_0", "generation_1", "generation_2", "student"]
    assert [stage.seed for stage in stages] == [3, 1003, 2003, 3003]
    assert {stage.learner["name"] for stage in stages} == {"mlp_8"} and {
        stage.trainer["epochs"] for stage in stages
    } == {7}
    assert stages[0].teacher is None and set(stages[0].objective) == {"ce"}
    for before, stage in pairwise(stages):
        assert stage.teacher.stage == before and set(stage.objective) == {"ce", "kd"} and stage.start is None
    assert BornAgain(generations=3).student_epochs(cast) == 28


def test_the_first_generation_is_the_student_alone():
    cast, (first, *_) = asked(BornAgain())
    lab = StageCollector()
    BornAgain().control("alone", lab, cast)
    (alone,) = lab.stages
    assert {**vars(alone), "role": ""} == {**vars(first), "role": ""}


def test_the_average_of_its_own_weights_teaches_and_is_kept():
    _, (stage,) = asked(MeanTeacher(decay=0.95), "objective=mean_teacher")
    assert stage.averaged and stage.taught and stage.teacher is None and stage.trainer["ema"] == 0.95
    assert set(stage.objective) == {"ce", "kd"} and stage.teacher_networks == [stage.learner["network"]]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["strategy=born_again", "teacher.seed=3"], "networks of the student's own make teach"),
        (["strategy=born_again", "strategy.generations=0"], "at least 1"),
        (["strategy=mean_teacher", "teacher.seed=3"], "the average of the student's own weights teaches"),
        (["strategy=mean_teacher", "strategy.decay=1.0"], "a number between 0 and 1"),
    ],
)
def test_what_they_do_not_use_is_refused(words, lines):
    with pytest.raises(UserError, match=lines):
        refuse_unused([compose([*words, "student=mlp_8"])])


def test_peers_are_of_the_students_make_with_other_seeds_or_assistants():
    _, (stage,) = asked(Mutual(peers=2), "objective=mutual")
    assert [peer["seed"] for peer in stage.peers] == [1003, 2003] and stage.taught and not stage.teachers
    assert {peer["learner"]["name"] for peer in stage.peers} == {"mlp_8"} and len(stage.networks) == 3
    assert stage.teacher_networks == [peer["learner"]["network"] for peer in stage.peers]
    _, (stage,) = asked(Mutual(peers=["resnet8"]), "objective=mutual")
    assert [(peer["name"], peer["learner"]["name"], peer["seed"]) for peer in stage.peers] == [
        ("resnet8", "resnet8", 0)
    ]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["strategy.peers=[mid]"], "no assistant 'mid'; all: resnet8, resnet8_w4"),
        (["strategy.peers=[resnet8,resnet8]"], "each once"),
        (["strategy.peers=0"], "at least 1"),
        (["hardware.devices=2"], "hardware.devices=2: strategy=mutual has a backward pass for each network"),
        (["student.weights=README.md"], "student.weights: the networks"),
        (["strategy.peers=[resnet8]", "assistants.resnet8.trainer.epochs=3"], "resnet8 has trainer.epochs=3"),
        (["trainer.gap=true"], "trained before it"),
        (["teacher.seed=3"], "the networks teach each other"),
    ],
)
def test_what_does_not_go_with_peers_is_refused(words, lines):
    with pytest.raises(UserError, match=re.escape(lines)):
        refuse_unused([compose(["strategy=mutual", "student=mlp_8", *words])])
