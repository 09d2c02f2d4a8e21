"""Evolving KD in a lab that fits nothing: which stages, from which weights, taught by whom, for how long."""

from __future__ import annotations

import pytest

from kdrun.job.compose import compose
from kdrun.lab.stages.base import Result
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.evolving import Evolving
from kdrun.strategies.takd import Takd

SIZES = {"mlp_1024": 4, "mlp_256": 3, "mlp_64": 2, "mlp_16": 1}


class Notes:
    """A lab that writes down what it is asked for. Sizes come from a table, not from the order in the config."""

    def __init__(self):
        self.stages = []

    def parameters(self, learner, data):
        return SIZES[learner["name"]]

    def get(self, stage):
        stage = stage.started(self.get)
        self.stages.append(stage)
        return Result(f"{stage.role} {stage.learner['name']} {len(self.stages)}", stage, {})


@pytest.fixture(scope="module")
def cell():
    return compose(["model=mlp_ladder", "strategy=evolving", "seed=3", "trainer.epochs=7"]).cells[0]


def hops(lab):
    """(role, start, teacher, epochs) of every distilled stage."""
    return [
        (s.role, s.start and s.start.fingerprint, s.teacher.stage.learner["name"], s.trainer["epochs"])
        for s in lab.stages
        if s.teacher is not None
    ]


def test_the_algorithm_of_the_paper(cell):
    lab = Notes()
    student = Evolving(epochs=[2, 3, 10]).run(lab, Cast(cell))
    assert [(s.role, s.learner["name"], s.teacher, s.seed) for s in lab.stages[:3]] == [
        ("mlp_64", "mlp_64", None, 0), ("mlp_256", "mlp_256", None, 0), ("teacher", "mlp_1024", None, 0),
    ]  # fmt: skip
    assert hops(lab) == [
        ("hop1_mlp_64", None, "mlp_64", 2),
        ("hop2_mlp_256", "hop1_mlp_64 mlp_16 4", "mlp_256", 3),
        ("student", "hop2_mlp_256 mlp_16 5", "mlp_1024", 10),
    ]
    assert student.stage is lab.stages[-1] and student.stage.seed == 3


def test_order_and_start(cell):
    lab = Notes()
    Evolving(order="descending", start="fresh").run(lab, Cast(cell))
    assert hops(lab) == [
        ("hop1_teacher", None, "mlp_1024", 7), ("hop2_mlp_256", None, "mlp_256", 7), ("student", None, "mlp_64", 7),
    ]  # fmt: skip
    shuffled = [Notes(), Notes()]
    for lab in shuffled:
        Evolving(order="shuffled").run(lab, Cast(cell))
    assert hops(shuffled[0]) == hops(shuffled[1])
    assert {teacher for _, _, teacher, _ in hops(shuffled[0])} == {"mlp_64", "mlp_256", "mlp_1024"}


@pytest.mark.parametrize(
    ("arm", "teacher", "epochs"),
    [
        ("plain_kd", "mlp_1024", 7), ("direct_junior", "mlp_64", 7), ("takd", "mlp_64", 7),
        ("plain_kd_equal", "mlp_1024", 15), ("direct_junior_equal", "mlp_64", 15), ("takd_equal", "mlp_64", 15),
    ],
)  # fmt: skip
def test_arms(cell, arm, teacher, epochs):
    lab = Notes()
    Evolving(epochs=[2, 3, 10], controls=[arm]).control(arm, lab, Cast(cell))
    role, start, taught_by, steps = hops(lab)[-1]
    assert (role, start, taught_by, steps) == (arm, None, teacher, epochs)
    taught_assistant = arm.startswith("takd")
    assert (lab.stages[-1].teacher.stage.teacher is not None) == taught_assistant
    if taught_assistant:
        assert hops(lab)[:2] == [("taught_mlp_256", None, "mlp_1024", 7), ("taught_mlp_64", None, "mlp_256", 7)]


def test_takd_as_a_strategy_is_the_arm(cell):
    arm, own = Notes(), Notes()
    Evolving().control("takd", arm, Cast(cell))
    Takd().run(own, Cast(cell))
    assert [hop[1:] for hop in hops(arm)] == [hop[1:] for hop in hops(own)]
    assert own.stages[-1].role == "student"


def test_equal_compute_is_the_student_alone_for_all_hops_together(cell):
    lab = Notes()
    Evolving(epochs=[2, 3, 10]).control("equal_compute", lab, Cast(cell))
    (stage,) = lab.stages
    assert (stage.teacher, stage.trainer["epochs"]) == (None, 15)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["strategy.epochs=[1,2]"], ["3 teachers need 3 numbers", "mlp_256"]),
        (["strategy.order=asending"], ["asending", "closest: ascending"]),
        (["strategy.start=old"], ["previous", "fresh"]),
        (["strategy.epochs=[0,1,1]"], ["at least one epoch"]),
        (["controls=[tkad]"], ["tkad", "closest: takd"]),
    ],
)
def test_mistakes(words, named):
    with pytest.raises(UserError) as caught:
        job = compose(["model=mlp_ladder", "strategy=evolving", "seed=0", *words])
        strategy = {key: value for key, value in job.config["strategy"].items() if key != "_target_"}
        Evolving(**strategy).run(Notes(), Cast(job.config))
    assert all(text in str(caught.value) for text in named), str(caught.value)


def test_labels_alone_keep_what_the_objective_says_of_them():
    """Smoothing of labels, and logits piece by piece, where the objective has one term for both."""
    words = ["model=nmt_transformer", "objective=word_kd_vocabulary", "seed=0"]
    found = Cast(compose(words).cells[0]).supervision
    assert found == {
        "ce": {"weight": 1.0, "label_smoothing": 0.1, "execution": "chunked", "chunk": None, "memory_mb": 128}
    }
    assert Cast(compose(["seed=0"]).cells[0]).supervision == {"ce": {"weight": 1.0, "label_smoothing": 0.0}}
