"""A teacher whose training data differ from its student's (`teacher.data`): what it learns from, how it teaches, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import kdrun
from kdrun.config.trees import differing, picked, without
from kdrun.domains.translation.spec import TextSpec
from kdrun.job.compose import compose
from kdrun.learning.teaching import Workshop
from kdrun.problems import UserError
from kdrun.strategies.unused import stages_of

WORDS = ("teacher=cnn_small", "student=mlp_16", "hardware=cpu", "tracker=none", "seed=0")
MORE = ("data.limit.train=200", "teacher.data.limit.train=null")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")

    def runs(*words: str, usual: Sequence[str] = (*WORDS, "trainer.epochs=2")):
        return kdrun.run(*usual, "card=false", f"paths.outputs={folder}/outputs", *words)

    return runs


@pytest.fixture(scope="module")
def view(run):
    return run(*MORE, "teacher.source=cached", "strategy.controls=[alone,plain_kd]")


def stage_of(view, role: str) -> dict:
    return next(stage for stage in view.stages if stage["role"] == role)


def test_the_teacher_knows_all_samples_and_is_asked_for_those_of_the_student(view, run):
    teacher, student = stage_of(view, "teacher"), stage_of(view, "student")
    assert teacher["cost"]["samples"] == 2 * 1146 and student["cost"]["samples"] == 2 * 200
    assert student["teacher"]["cache"]["samples"] == 200
    # Its inputs are normalised with the moments of its own samples, and the check before it teaches is of the same network.
    assert student["teacher"]["accuracy"] == pytest.approx(teacher["val"]["best"]["accuracy"], abs=1e-6)
    assert student["teacher"]["stated"] == teacher["val"]["best"]["accuracy"]
    means = [kdrun.load(view, arm).kdrun["mean"] for arm in ("teacher", "student")]
    assert means[0] != means[1]
    whole = run()
    assert stage_of(whole, "teacher")["fingerprint"] == teacher["fingerprint"]
    assert stage_of(whole, "teacher")["source"] == "store"
    assert stage_of(whole, "student")["fingerprint"] != student["fingerprint"]


def test_records_panels_and_cards_say_what_each_has_seen(view, capsys):
    from kdrun.cli import main

    seen = {"teacher": {"name": "cnn_small", "samples": 1146}, "student": {"name": "mlp_16", "samples": 200}}
    assert view.summary["seen"] == seen
    outputs = f"paths.outputs={view.path.parent.parent}"
    for words in (
        ["show", view.id],
        ["card", view.id, "calls=100", "samples=20"],
        ["plan", *WORDS, *MORE, "trainer.epochs=2"],
    ):
        assert main([*words, outputs]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "1,146" in text or "1146 train" in text
        assert "200" in text
    cards = json.loads((view.path / "card" / "cards.json").read_text())
    assert {card["arm"]: card["seen"]["samples"] for card in cards} == {"teacher": 1146, "alone": 200, "student": 200}
    assert main(["report", view.id, outputs]) == 0
    (page,) = view.path.glob("**/*.html")
    assert "1,146 samples" in page.read_text() and "200 samples" in page.read_text()


def test_a_teacher_of_another_view_sees_the_students_samples_that_way(run):
    view = run("teacher.data.view=edges", "teacher.data.limit.train=1000", "teacher.trainer.epochs=5")
    teacher, student = stage_of(view, "teacher"), stage_of(view, "student")
    assert student["teacher"]["accuracy"] == pytest.approx(teacher["val"]["best"]["accuracy"], abs=1e-6)
    (taught,) = [
        stage
        for stage in stages_of(compose([*WORDS, "teacher.data.view=edges"]).config)
        if stage.teacher and stage.role == "student"
    ]
    assert taught.sees == {"view": "edges"} and taught.data["view"] is None


def test_every_learner_that_teaches_has_its_own_data():
    words = ["strategy=takd", "model=mlp_ladder", "hardware=cpu", "tracker=none", "data.limit.train=300"]
    job = compose(
        [
            *words,
            "teacher.data.limit.train=null",
            "assistants.mlp_256.data.limit.train=600",
            "assistants.mlp_256.data.augment.crop=1",
        ]
    )
    stages = {stage.role: stage for stage in stages_of(job.config)}
    rows = {role: (stage.data["limit"]["train"], stage.data["augment"]["crop"]) for role, stage in stages.items()}
    assert rows["teacher"] == (None, 0) and rows["student"] == rows["alone"] == (300, 0)
    assert (600, 1) in rows.values() and (300, 0) in rows.values()
    assert all("beside" not in stage.stated for role, stage in stages.items() if role in ("student", "alone"))


def test_what_is_no_difference_changes_no_hash_and_no_stage():
    plain, said = (compose([*WORDS, *more]) for more in ((), ("teacher.data.limit.train=null",)))
    assert plain.hash == said.hash and plain.config["teacher"]["data"] == {}
    first, second = (stages_of(job.config) for job in (plain, said))
    assert [(stage.data, stage.stated) for stage in first] == [(stage.data, stage.stated) for stage in second]
    assert compose([*WORDS, *MORE]).hash != compose([*WORDS, MORE[0]]).hash


def test_what_is_typed_for_all_is_for_the_teacher_too_and_is_told(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndata: {limit: {train: 200}}\nteacher: {data: {limit: {train: null}}}\n"
    (tmp_path / "experiment" / "few.yaml").write_text(text)
    words, folders = [*WORDS, "experiment=few"], [str(tmp_path)]
    job = compose(words, folders)
    assert job.config["teacher"]["data"] == {"limit": {"train": None}} and not job.notes
    typed = compose([*words, "data.limit.train=100"], folders)
    assert typed.config["teacher"]["data"] == {"limit": {"train": 100}}
    (note,) = typed.notes
    assert "data.limit.train=100 is for teacher too" in note and note.endswith("teacher.data.limit.train=null")
    kept = compose([*words, "data.limit.train=100", "teacher.data.limit.train=null"], folders)
    assert kept.config["teacher"]["data"] == {"limit": {"train": None}} and not kept.notes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["teacher.data.limt.train=5"], "closest: teacher.data.limit"),
        (["teacher.data.limit.trian=5"], "closest: teacher.data.limit.train"),
        (["teacher.dat.limit.train=5"], "closest: teacher.data.limit.train"),
        (["student.data.limit.train=5"], "closest: data.limit.train"),
        (["teacher.data.limit.train=-1"], "at least 1"),
        (["teacher.data=3"], "expected a mapping"),
        (["teacher.data.split_seed=1"], "validation and test are the same"),
        (["teacher.data.limit.val=9"], "validation and test are the same"),
        (["teacher.data.task=diagnosis"], "learn the same task"),
        (["teacher.data.root=elsewhere"], "teacher.weights=FILE"),
        (["teacher.data.normalize={mean: [0.5], std: [0.5]}"], "give teacher.normalize"),
    ],
)
def test_what_may_not_differ_is_refused_with_the_reason(words, said):
    with pytest.raises(UserError) as error:
        compose([*WORDS, *words])
    assert said in str(error.value) and len(error.value.lines) <= 4


def test_an_assistant_without_a_network_is_named(capsys):
    from kdrun.cli import main

    assert main(["plan", *WORDS, "assistants.mid.data.limit.train=5"]) == 2
    assert "assistants.mid.network" in capsys.readouterr().err


def test_keys_that_a_strategy_would_not_use_are_refused(capsys):
    from kdrun.cli import main

    assert main(["plan", *WORDS, "strategy=alone", "teacher.data.limit.train=5"]) == 2
    assert "strategy=alone does not use it" in capsys.readouterr().err


def test_outputs_in_other_units_of_the_target_are_turned(run):
    """More rows have another mean and deviation of the target, in which the teacher learned it."""
    words = ("data=diabetes", "teacher=mlp_64", "objective=mse_kd", "trainer.optimizer.lr=0.01", "trainer.epochs=6")
    view = run(*words, *MORE)
    teacher, student = (next(s for s in view.record["stages"] if s["role"] == role) for role in ("teacher", "student"))
    assert student["teacher"]["r2"] == pytest.approx(teacher["val"]["best"]["r2"], abs=1e-3)


def test_a_teacher_that_knows_all_labels_gives_them_to_its_student(run):
    words = ("student=mlp_64", "data.labelled=200", "teacher.data.labelled=null", "teacher.trainer.epochs=8")
    view = run(*words, usual=("teacher=cnn_small", "hardware=cpu", "tracker=none", "trainer.epochs=15", "seed=0"))
    assert view.summary["seen"]["teacher"]["samples"] == 1146 and view.summary["seen"]["student"]["labelled"] == 200
    assert min(view.summary["difference"]["best"]["values"]) > 0.015


def module(train, val=(4, 5), test=(6,), content="a", spec=None):
    ids = {"train": train, "val": val, "test": test}
    samples = {name: SimpleNamespace(ids=torch.tensor(ids[name]), targets=torch.zeros(len(ids[name]))) for name in ids}
    spec = spec or SimpleNamespace(metadata=dict, check=lambda *_: None, in_units_of=lambda _: spec)
    return SimpleNamespace(
        identified=lambda split: (samples[split].ids, samples[split].targets),
        identities=lambda split: samples[split].ids,
        raw_targets=lambda split: samples[split].targets,
        extra_tests=(),
        spec=spec,
        content=content,
    )


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (module([1, 2, 3]), None),
        (module([1, 2, 4]), "validated or tested on"),
        (module([1, 2, 3], val=(5, 4)), "val would not be"),
        (module([1, 2, 3], test=(7,)), "test would not be"),
        (module([1, 2, 3], content="b"), "not the samples"),
    ],
)
def test_no_teacher_is_trained_on_what_its_student_is_judged_on(tmp_path, teacher, said):
    modules = {"teacher": teacher, "run": module([1])}
    workshop = Workshop(lambda config: modules[config["name"]], tmp_path)
    if said is None:
        workshop.check_evaluation({"name": "teacher"}, {"name": "run"})
        return
    with pytest.raises(UserError, match=said):
        workshop.check_evaluation({"name": "teacher"}, {"name": "run"})


def test_outputs_of_another_meaning_do_not_teach(tmp_path):
    words = TextSpec("pairs", 64, 0, 1, 2, {}, 32, "0" * 64, ("de", "en"), 3, "auto")
    modules = {"run": module([1], spec=words), "teacher": module([1, 2], spec=replace(words, tokenizer="1" * 64))}
    with pytest.raises(UserError, match="another tokenizer"):
        Workshop(lambda config: modules[config["name"]], tmp_path).check_evaluation(
            {"name": "teacher"}, {"name": "run"}
        )


def test_trees():
    tree = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {"g": 1}}
    assert picked(tree, {"b": {"d": {"e": 0}}}) == {"b": {"d": {"e": 3}}}
    assert differing({"a": 1, "b": {"c": 5, "d": {"e": 3}}}, tree) == {"b": {"c": 5}}
    assert differing({"a": None}, {}) == {"a": None}
    assert without(tree, ["b.d", "f"]) == {"a": 1, "b": {"c": 2}}
