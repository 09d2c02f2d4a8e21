"""The cascade in a lab that fits nothing: which phases, from which weights, taught by whom, for how long."""

from __future__ import annotations

import pytest

from kdrun.job.compose import compose
from kdrun.lab.stages.base import Result
from kdrun.problems import UserError
from kdrun.strategies.cascaded import Cascaded
from kdrun.strategies.cast import Cast

SIZES = {"mlp_1024": 4, "mlp_256": 3, "mlp_64": 2, "mlp_16": 1}
FIRST = {"data": {"test_fraction": 0.3}, "trainer": {"epochs": 2}}
SINGLE = ("plain_kd", "direct_junior", "takd", "joint", "dgkd")


class Notes:
    """A lab that writes down what it is asked for. Like the real one, it fits a stage once; roles say nothing of it."""

    def __init__(self):
        self.stages = []
        self.known = {}

    def parameters(self, learner, data):
        return SIZES[learner["name"]]

    def get(self, stage):
        stage = stage.started(self.get)
        key = repr(
            [
                stage.learner["name"], stage.seed, stage.data, stage.trainer, stage.objective, stage.drop,
                stage.start and stage.start.fingerprint, [teacher.fingerprint for teacher in stage.teachers],
            ]
        )  # fmt: skip
        if key not in self.known:
            self.stages.append(stage)
            self.known[key] = Result(stage.role, stage, {})
        return self.known[key]


@pytest.fixture(scope="module")
def plain():
    """A family of image classifiers: no first phase."""
    return compose(["model=mlp_ladder", "strategy=cascaded", "seed=3", "trainer.epochs=7"]).cells[0]


@pytest.fixture
def cell(plain):
    """The same with a first phase of two epochs on other data."""
    return {**plain, "pretrain": FIRST}


def run(cell, **options):
    lab = Notes()
    student = Cascaded(**options).run(lab, Cast(cell))
    assert student.stage is lab.stages[-1]
    return lab


def arm(cell, name, **options):
    lab = Notes()
    trained = Cascaded(**options).control(name, lab, Cast(cell))
    assert trained.stage is lab.stages[-1] and trained.stage.role == name
    return lab


def phases(lab, learner="mlp_16"):
    """(role, start, teachers, epochs) of every stage of one network."""
    return [
        (s.role, s.start and s.start.fingerprint, [t.fingerprint for t in s.teachers], s.trainer["epochs"])
        for s in lab.stages
        if s.learner["name"] == learner
    ]


def steps(lab):
    """Epochs of the student's first, supervised and distilled phases, all together."""
    spent = {"first": 0, "supervised": 0, "distilled": 0}
    for stage in lab.stages:
        if stage.learner["name"] == "mlp_16":
            first = stage.data["test_fraction"] == FIRST["data"]["test_fraction"]
            kind = "first" if first else "distilled" if stage.teachers else "supervised"
            spent[kind] += stage.trainer["epochs"]
    return spent


def test_grades_from_the_smallest_teacher_to_the_largest(cell):
    lab = run(cell, epochs=[2, 3, 10], sft_epochs=5)
    assert phases(lab) == [
        ("grade1_mlp_64_first", None, ["mlp_64"], 2),
        ("grade1_mlp_64_sft", "grade1_mlp_64_first", [], 5),
        ("grade1_mlp_64", "grade1_mlp_64_sft", ["mlp_64"], 2),
        ("grade2_mlp_256", "grade1_mlp_64", ["mlp_256"], 3),
        ("student", "grade2_mlp_256", ["teacher"], 10),
    ]
    assert lab.stages[-1].seed == 3


def test_teachers_are_ordinary_networks_with_the_first_phase_of_the_family(cell):
    lab = run(cell)
    for name in ("mlp_64", "mlp_256", "teacher"):
        learner = "mlp_1024" if name == "teacher" else name
        assert phases(lab, learner) == [(f"{name}_first", None, [], 2), (name, f"{name}_first", [], 7)]
    assert all(stage.learner["name"] != "mlp_16" for stage in lab.stages[:6]), "teachers come before the student"


@pytest.mark.parametrize(
    ("options", "roles"),
    [
        ({"stages_per_teacher": "all_full"}, ["_first", "_sft", "", "_first", "_sft", "", "_first", "_sft", ""]),
        ({"stages_per_teacher": "all_full", "sft": False}, ["_first", "", "_first", "", "_first", ""]),
        ({"stages_per_teacher": "dft_only"}, ["_first", "", "", ""]),
        ({"sft": False}, ["_first", "", "", ""]),
    ],
)
def test_phases_of_each_grade_go_on_from_one_another(cell, options, roles):
    found = phases(run(cell, **options))
    names = ["grade1_mlp_64", "grade2_mlp_256", "student"]
    assert [role.removeprefix(next(n for n in names if role.startswith(n))) for role, *_ in found] == roles
    assert [start for _, start, *_ in found] == [None, *(role for role, *_ in found[:-1])]
    if options.get("stages_per_teacher") == "dft_only":
        assert found[0][2] == [], "the first phase of dft_only is the family's own, on labels"
    else:
        assert found[0][2] == ["mlp_64"]


def test_image_classifiers_have_the_same_grades_without_a_first_phase(plain):
    assert phases(run(plain)) == [
        ("grade1_mlp_64_sft", None, [], 7),
        ("grade1_mlp_64", "grade1_mlp_64_sft", ["mlp_64"], 7),
        ("grade2_mlp_256", "grade1_mlp_64", ["mlp_256"], 7),
        ("student", "grade2_mlp_256", ["teacher"], 7),
    ]
    assert phases(run(plain, stages_per_teacher="dft_only"))[0] == ("grade1_mlp_64", None, ["mlp_64"], 7)


def test_order_and_choice_of_teachers(plain):
    descending = phases(run(plain, order="descending", sft=False))
    assert [teachers for *_, teachers, _ in descending] == [["teacher"], ["mlp_256"], ["mlp_64"]]
    chosen = run(plain, teachers=["teacher", "mlp_64"], sft=False)
    assert phases(chosen) == [("grade1_mlp_64", None, ["mlp_64"], 7), ("student", "grade1_mlp_64", ["teacher"], 7)]
    assert phases(chosen, "mlp_256") == []


def test_each_hop_of_the_student_measures_its_gap_and_nothing_else_does(cell):
    for lab in (run(cell), run(cell, scheme="takd"), arm(cell, "plain_kd"), arm(cell, "joint")):
        for stage in lab.stages:
            hop = stage.learner["name"] == "mlp_16" and bool(stage.teachers) and not stage.role.endswith("_first")
            assert stage.trainer["gap"] == hop, stage.role


def test_takd_moves_knowledge_down_the_ladder(cell):
    lab = run(cell, scheme="takd", epochs=[9])
    assert phases(lab, "mlp_256")[-1] == ("taught_mlp_256", "taught_mlp_256_sft", ["teacher"], 7)
    assert phases(lab, "mlp_64")[-1] == ("taught_mlp_64", "taught_mlp_64_sft", ["taught_mlp_256"], 7)
    assert phases(lab)[0][2] == ["taught_mlp_64"]
    assert phases(lab)[-1] == ("student", "student_sft", ["taught_mlp_64"], 9)


def test_dgkd_guides_densely_and_drops_only_for_the_student(cell):
    lab = run(cell, scheme="dgkd", drop=0.4)
    assert phases(lab, "mlp_256")[-1][2] == ["teacher"]
    assert phases(lab, "mlp_64")[-1][2] == ["teacher", "guided_mlp_256"]
    assert phases(lab)[-1][2] == ["teacher", "guided_mlp_256", "guided_mlp_64"]
    drops = {stage.role: stage.drop for stage in lab.stages if stage.drop}
    assert drops == {"student_first": 0.4, "student": 0.4}


def test_joint_is_all_plain_teachers_at_once_without_dropping(cell):
    lab = run(cell, scheme="joint", drop=0.4)
    assert phases(lab)[-1][2] == ["teacher", "mlp_256", "mlp_64"]
    assert all(stage.drop == 0 for stage in lab.stages)


@pytest.mark.parametrize(
    ("name", "teachers"),
    [
        ("plain_kd", ["teacher"]), ("direct_junior", ["mlp_64"]), ("takd", ["taught_mlp_64"]),
        ("joint", ["teacher", "mlp_256", "mlp_64"]), ("dgkd", ["teacher", "guided_mlp_256", "guided_mlp_64"]),
    ],
)  # fmt: skip
def test_arms_of_one_grade(cell, name, teachers):
    found = phases(arm(cell, name, controls=[name], epochs=[2, 3, 10]))
    assert found == [
        (f"{name}_first", None, teachers, 2),
        (f"{name}_sft", f"{name}_first", [], 7),
        (name, f"{name}_sft", teachers, 7),
    ]


def test_reversed_is_the_cascade_in_the_other_order(cell):
    other, own = (
        phases(arm(cell, "reversed", epochs=[2, 3, 10])),
        phases(run(cell, order="descending", epochs=[2, 3, 10])),
    )
    assert [phase[2:] for phase in other] == [phase[2:] for phase in own]
    assert [role for role, *_ in other][-2:] == ["reversed_grade2_mlp_256", "reversed"]
    back = phases(arm(cell, "reversed", order="descending"))
    assert [phase[2:] for phase in back] == [phase[2:] for phase in phases(run(cell))]
    assert phases(arm(cell, "reversed", scheme="joint", epochs=[9]))[-1][2:] == (["mlp_64"], 7)


@pytest.mark.parametrize("name", ["plain_kd_equal", "direct_junior_equal", "reversed", "equal_compute", "restarts"])
@pytest.mark.parametrize("grades", ["first_full", "all_full", "dft_only"])
@pytest.mark.parametrize("sft", [True, False])
def test_equal_arms_spend_the_steps_of_the_cascade_phase_by_phase(cell, name, grades, sft):
    options = {"stages_per_teacher": grades, "sft": sft, "sft_epochs": 5, "epochs": [2, 3, 10]}
    own, other = steps(run(cell, **options)), steps(arm(cell, name, **options))
    if name in ("equal_compute", "restarts"):
        own["supervised"], own["distilled"] = own["supervised"] + own["distilled"], 0
        assert own["supervised"] == Cascaded(**options).student_epochs(Cast(cell))
    assert other == own
    assert own["first"] == (6 if grades == "all_full" else 2)


def test_restarts_are_the_phases_of_the_cascade_on_labels(cell):
    assert phases(arm(cell, "restarts", epochs=[2, 3, 10], sft_epochs=5)) == [
        ("restarts_first", None, [], 2),
        ("restarts_1", "restarts_first", [], 5),
        ("restarts_2", "restarts_1", [], 2),
        ("restarts_3", "restarts_2", [], 3),
        ("restarts", "restarts_3", [], 10),
    ]


def test_alone_is_the_first_phase_and_labels(cell):
    assert phases(arm(cell, "alone")) == [("alone_first", None, [], 2), ("alone", "alone_first", [], 7)]


def test_an_arm_that_asks_for_the_same_phase_shares_it(cell):
    """The first grade is the whole of direct_junior: a lab that knows both fits it once."""
    lab = Notes()
    strategy = Cascaded()
    strategy.run(lab, Cast(cell))
    before = len(lab.stages)
    assert strategy.control("direct_junior", lab, Cast(cell)).fingerprint == "grade1_mlp_64"
    assert len(lab.stages) == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["strategy.scheme=botom_up"], ["closest: bottom_up"]),
        (["strategy.order=asending"], ["closest: ascending"]),
        (["strategy.stages_per_teacher=full"], ["first_full", "all_full", "dft_only"]),
        (["strategy.scheme=joint", "strategy.order=descending"], ["only scheme=bottom_up has an order", "joint"]),
        (["strategy.teachers=mlp_64"], ["auto, or a list"]),
        (["strategy.teachers=[]"], ["auto, or a list"]),
        (["strategy.teachers=[mlp_64,mlp_64]"], ["named twice"]),
        (["strategy.teachers=[mlp_46]"], ["mlp_46", "closest: mlp_64", "teacher"]),
        (["strategy.epochs=[1,2]"], ["3 teachers", "need 3 numbers", "mlp_256"]),
        (["strategy.scheme=takd", "strategy.epochs=[1,2]"], ["scheme=takd", "needs 1 number"]),
        (["strategy.epochs=[0,1,1]"], ["at least one epoch"]),
        (["strategy.sft_epochs=0"], ["at least one epoch", "strategy.sft=false"]),
        (["strategy.drop=1.0"], ["strategy.drop=1.0", "below 1"]),
        (["controls=[direct_senior]"], ["direct_senior", "plain_kd_equal"]),
    ],
)
def test_mistakes(words, named):
    with pytest.raises(UserError) as caught:
        job = compose(["model=mlp_ladder", "strategy=cascaded", "seed=0", *words])
        strategy = {key: value for key, value in job.config["strategy"].items() if key != "_target_"}
        Cascaded(**strategy).run(Notes(), Cast(job.config))
    assert all(text in str(caught.value) for text in named), str(caught.value)
