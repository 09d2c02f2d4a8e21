"""Cross-window distillation: who is chosen by what, who starts from where, what is taken together; and whole small runs."""

from __future__ import annotations

import json

import pytest

from kdrun import api
from kdrun.job.compose import compose
from kdrun.job.plan import make_plan
from kdrun.lab.lab import Lab
from kdrun.lab.stages.base import Result
from kdrun.lab.stages.combine import Combine
from kdrun.learning.resampling import read_samples
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.cross_window import CrossWindow

VALIDATION = {"lung": 0.8, "mediastinal": 0.7, "bone": 0.9}
TEST = {"lung": 0.99, "mediastinal": 0.6, "bone": 0.5}
CT = (
    "model=ct_se_resnet",
    "data=ct_synthetic",
    "strategy=cross_window",
    "seed=3",
    "trainer.epochs=7",
    "tracker=none",
    "card=false",
)


class Notes:
    """A lab that writes down what it is asked for; results of the first trainings are those of tables, by window."""

    def __init__(self):
        self.stages, self.groups, self.decisions, self.workshop = [], [], [], self

    def main_metric(self, data):
        return "auc", "max"

    choose = Lab.choose

    def get(self, stage):
        if isinstance(stage, Combine):
            self.groups.append(stage)
            return Result(stage.role, stage, {})
        known = [one for one in self.stages if one == stage]
        if not known:
            self.stages.append(stage)
        window = stage.data["window"]
        scores = ({"auc": table[window]} for table in (VALIDATION, TEST)) if isinstance(window, str) else ({}, {})
        val, test = scores
        return Result(stage.role, stage, {"val": {"best": val}, "test": {"best": test}})


@pytest.fixture(scope="module")
def cell():
    return compose([*CT]).cells[0]


def taught(lab):
    """role -> (window, start, teacher, what the teacher sees) of every distilled stage."""
    return {
        s.role: (s.data["window"], s.start.fingerprint, s.teacher.fingerprint, s.sees)
        for s in lab.stages
        if s.teacher is not None
    }


def test_the_algorithm_of_the_paper(cell):
    lab = Notes()
    result = CrossWindow().run(lab, Cast(cell))
    assert [(s.role, s.data["window"], s.start, s.teacher, s.seed) for s in lab.stages[:3]] == [
        (f"before_{name}", name, None, None, 3) for name in VALIDATION
    ]
    sees = {"window": "bone"}
    assert taught(lab) == {
        "student_lung": ("lung", "before_lung", "before_bone", sees),
        "student_mediastinal": ("mediastinal", "before_mediastinal", "before_bone", sees),
    }
    last = lab.stages[-1]
    weights = {name: term["weight"] for name, term in last.objective.items()}
    assert weights == {"ce": 0.5, "feature": 0.5, "kd": 0.0} and last.objective["feature"]["norm"] == "none"
    group = result.stage
    assert isinstance(group, Combine) and group.method == "logistic" and group.counted == ("lung", "mediastinal")
    assert {name: one.fingerprint for name, one in group.members.items()} == {
        "lung": "student_lung", "mediastinal": "student_mediastinal", "bone": "before_bone",
    }  # fmt: skip
    assert group.teacher.fingerprint == "before_bone"


def test_validation_chooses_and_the_record_says_so(cell):
    lab = Notes()
    CrossWindow().run(lab, Cast(cell))
    assert lab.decisions[0] == {
        "what": "best view", "chosen": "bone", "metric": "auc", "split": "val", "values": VALIDATION, "seed": 3,
    }  # fmt: skip
    assert len(lab.decisions) == 1
    for kind in ("best_test", "test", "worst_test"):
        with pytest.raises(UserError, match="would leak"):
            CrossWindow(teacher=kind)


def test_nothing_is_chosen_where_a_figure_is_missing(cell, monkeypatch):
    for value in (float("nan"), None, "nan"):
        monkeypatch.setitem(VALIDATION, "mediastinal", value)
        with pytest.raises(UserError, match="not known for mediastinal"):
            CrossWindow().run(Notes(), Cast(cell))


@pytest.mark.parametrize(
    ("options", "teachers"),
    [
        ({"teacher": "worst_validation"}, {"lung": "mediastinal", "bone": "mediastinal"}),
        ({"teacher": "lung"}, {"mediastinal": "lung", "bone": "lung"}),
        ({"teacher": "self"}, {name: name for name in VALIDATION}),
        ({"views": ["bone", "lung"]}, {"lung": "bone"}),
    ],
)
def test_teachers(cell, options, teachers):
    lab = Notes()
    result = CrossWindow(**options).run(lab, Cast(cell))
    assert taught(lab) == {
        f"student_{name}": (name, f"before_{name}", f"before_{who}", {} if who == name else {"window": who})
        for name, who in teachers.items()
    }
    assert "bone" not in result.stage.counted and "lung" in result.stage.counted


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"transfer": "logit"}, {"ce": 0.5, "feature": 0.0, "kd": 0.5}),
        ({"transfer": "both", "weight": 0.8}, {"ce": 0.2, "feature": 0.4, "kd": 0.4}),
        ({"weight": 1.0, "feature_norm": "l2"}, {"ce": 0.0, "feature": 1.0, "kd": 0.0}),
    ],
)
def test_what_is_transferred(cell, options, expected):
    lab = Notes()
    CrossWindow(**options).run(lab, Cast(cell))
    objective = lab.stages[-1].objective
    assert {name: term["weight"] for name, term in objective.items()} == pytest.approx(expected)
    if "feature_norm" in options:
        assert objective["feature"]["norm"] == "l2"


def test_weights_of_the_objective_are_factors_and_its_options_stay():
    lab = Notes()
    words = ("objective.feature.weight=10", "objective.ce.label_smoothing=0.1", "objective.kd.temperature=3")
    CrossWindow(transfer="both").run(lab, Cast(compose([*CT, *words]).cells[0]))
    objective = lab.stages[-1].objective
    assert objective["feature"]["weight"] == 2.5 and objective["kd"] == {"weight": 0.25, "temperature": 3}
    assert objective["ce"] == {"weight": 0.5, "label_smoothing": 0.1}


def test_arms_have_the_same_views_starts_and_steps(cell):
    strategy, cast = CrossWindow(epochs=4), Cast(cell)
    lab = Notes()
    results = {name: strategy.control(name, lab, cast) for name in strategy.arms}
    strategy.run(lab, cast)
    assert {group.counted for group in lab.groups if group.role != "late_fusion"} == {("lung", "mediastinal")}
    before = results["alone"].stage.members
    assert [one.fingerprint for one in before.values()] == [f"before_{name}" for name in VALIDATION]
    assert all(one.stage.trainer["epochs"] == 7 for one in before.values())
    second = [s for s in lab.stages if s.start is not None]
    assert {s.trainer["epochs"] for s in second} == {4}
    assert all(s.start.fingerprint == f"before_{s.data['window']}" for s in second)
    continued = results["equal_compute"].stage.members
    assert continued["bone"].fingerprint == "before_bone" and continued["lung"].stage.teacher is None
    fused = results["late_fusion"].stage.members["all"].stage
    assert fused.trainer["epochs"] == 11 and fused.data["window"] == list(VALIDATION) and fused.start is None
    (logit,) = {s.objective["feature"]["weight"] for s in lab.stages if s.role.startswith("logit_kd")}
    assert logit == 0


def test_another_network_as_teacher_is_trained_on_the_chosen_view():
    lab = Notes()
    config = compose([*CT, "teacher.network.widths=[16,32,64]"]).cells[0]
    CrossWindow().run(lab, Cast(config))
    assert {teacher for _, _, teacher, _ in taught(lab).values()} == {"teacher_bone"}
    (stage,) = [s for s in lab.stages if s.role == "teacher_bone"]
    assert stage.learner["network"]["widths"] == [16, 32, 64] and stage.data["window"] == "bone"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transfer": "features"}, "strategy.transfer=features.*closest: feature"),
        ({"weight": 0}, "strategy.weight=0"),
        ({"epochs": 0}, "strategy.epochs=0"),
        ({"views": ["lung"]}, "at least two"),
        ({"stack": "vote"}, "strategy.stack=vote"),
        ({"controls": ["plain_kd"]}, "no control 'plain_kd'"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CrossWindow(**options)


def test_names_that_are_refused(cell):
    with pytest.raises(UserError, match=r"strategy.teacher=lungs.*closest: lung"):
        CrossWindow(teacher="lungs").run(Notes(), Cast(cell))
    with pytest.raises(UserError, match="named twice"):
        CrossWindow(views=["lung", "lung"]).run(Notes(), Cast(cell))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"data.task=classification"),
        (["data.task=diagnosis"], "has no windows"),
        (["data.task=diagnosis", "strategy.views=[grey,edge]"], r"no view 'edge'; closest: edges"),
        (
            ["data=ct_patches", "strategy.views=[lung,bones]"],
            r"strategy.views=bones: there is no such window; closest: bone",
        ),
        (["data=ct_patches", "strategy.teacher=lungs"], r"closest: lung"),
    ],
)
def test_what_does_not_go_with_the_data_is_told_when_it_is_composed(words, message):
    with pytest.raises(UserError, match=message):
        compose(["strategy=cross_window", "seed=0", *words])


def test_windows_of_ones_own(cell):
    assert CrossWindow(views=[[40, 400], "lung"])._views(Cast(cell)) == {
        "40/400": {"window": [40, 400]},
        "lung": {"window": "lung"},
    }


# whole runs

SMALL = (
    "strategy=cross_window", "objective=cross_window", "data=ct_synthetic", "data.train=60", "data.val=30", "data.test=40",
    "data.depth=4", "data.size=16", "data.strength=8", "data.signal=bone", "data.echo=40", "teacher=mlp_8", "student=mlp_8",
    "trainer.epochs=3", "trainer.batch_size=16", "trainer.optimizer.lr=0.02", "trainer.monitor=loss", "trainer.mode=min",
    "tracker=none", "card=false", "hardware=cpu", "seeds=2",
)  # fmt: skip


def paths(folder):
    return (f"paths.outputs={folder / 'outputs'}",)


def run(folder, *words):
    from kdrun.run import run_job

    job = compose([*words, *paths(folder)])
    assert run_job(job, quiet=True) == 0
    (record,) = (folder / "outputs" / "runs").glob("*/record.json")
    return job, json.loads(record.read_text())


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross")
    return folder, *run(folder, *SMALL, "controls=[alone,equal_compute,self_teacher,late_fusion]")


@pytest.mark.slow
def test_a_whole_run_says_what_was_chosen_and_what_each_view_gained(ran):
    _, _, record = ran
    summary = record["summary"]
    assert summary["metric"] == "auc" and {one["seed"] for one in summary["decisions"]} == {0, 1}
    assert all(one["split"] == "val" for one in summary["decisions"])
    stages = {stage["label"]: stage for stage in record["stages"]}
    for seed in (0, 1):
        (chosen,) = [one for one in summary["decisions"] if one["seed"] == seed]
        values = {name: stages[f"before_{name}/seed={seed}"]["val"]["best"]["auc"] for name in chosen["values"]}
        assert values == chosen["values"] and chosen["chosen"] == max(values, key=values.get)
        student = stages[f"student/seed={seed}"]["test"]["best"]
        others = [student[f"auc/{name}"] for name in values if name != chosen["chosen"]]
        assert student["auc"] == pytest.approx(sum(others) / len(others))
        assert (
            student[f"auc/{chosen['chosen']}"]
            == stages[f"before_{chosen['chosen']}/seed={seed}"]["test"]["best"]["auc"]
        )
        assert 0 <= student["auc/combined"] <= 1
    found = summary["differences"]["equal_compute"]["resampled"]["auc"]
    assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    best = summary["differences"]["equal_compute"]["best"]["mean"]
    assert found["mean"] == pytest.approx(best, abs=1e-6)


def test_the_second_time_everything_is_found(ran):
    _, job, record = ran
    plan = make_plan(job)
    assert plan["estimate"]["stages"] == 0 and not plan.get("assumed")
    assert len(record["stages"]) == len({stage["fingerprint"] for stage in record["stages"]})


def test_rows_of_members_are_kept_and_the_run_opens(ran):
    folder, _, record = ran
    (student,) = [stage for stage in record["stages"] if stage["label"] == "student/seed=0"]
    rows = read_samples(student["path"])
    assert len(rows) == 40 and set(rows[0]["members"]) == {"lung", "mediastinal", "bone"}
    with pytest.raises(UserError, match=r"several networks.*lung"):
        api.load(record["id"], outputs=folder / "outputs")
    network = api.load(record["id"], part="lung", outputs=folder / "outputs")
    assert network.training is False and network.kdrun["stage"] in ("student_lung/seed=0", "before_lung/seed=0")


def test_a_plan_before_the_first_training_says_what_it_assumes(tmp_path):
    plan = make_plan(compose([*SMALL, *paths(tmp_path)]))
    assert plan["assumed"] == [
        "best view: the best of lung, mediastinal, bone on validation, not known yet; planned as if it were lung"
    ]
    assert len(plan["stages"]) == 2 * (3 + 2 + 2)


def test_views_of_ordinary_images(tmp_path):
    """The same strategy between the grey image and its edges."""
    words = ("strategy=cross_window", "objective=cross_window", "strategy.views=[grey,edges]", "data.task=diagnosis")
    words += (
        "model=mlp_ladder",
        "teacher=mlp_16",
        "student=mlp_16",
        "data.limit.train=300",
        "trainer.epochs=3",
        "trainer.batch_size=64",
    )
    _, record = run(tmp_path, *words, "tracker=none", "card=false", "hardware=cpu", "seed=0")
    roles = [stage["role"] for stage in record["stages"]]
    assert roles[:2] == ["before_grey", "before_edges"] and sum(role.startswith("student_") for role in roles) == 1
    assert record["summary"]["metric"] == "auc"
