"""strategy=elastic: which stages it asks for, and a small run of it whose parts are networks by themselves."""

import json

import pytest
import torch

import kdrun
from kdrun.cli import main
from kdrun.job.compose import compose
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.elastic import Elastic
from kdrun.strategies.unused import StageCollector, refuse_unused

SMALL = ["teacher=resnet8_w4", "data.limit.test=100", "hardware=cpu", "tracker=none", "seeds=1"]


def asked(strategy, *words, control=None):
    cast, lab = (
        Cast(compose(["strategy=elastic", "teacher=resnet8", "trainer.epochs=9", *words]).cells[0]),
        StageCollector(),
    )
    result = strategy.run(lab, cast) if control is None else strategy.control(control, lab, cast)
    return result, lab.stages


def test_the_parent_teaches_and_is_what_the_students_begin_with():
    result, (parent, ranked, nested, *slices) = asked(Elastic())
    assert [stage.role for stage in slices] == ["student_1", "student_0.7", "student_0.4"]
    assert parent.role == "teacher" and ranked.trainer is None and ranked.start.stage == parent
    assert nested.teacher.stage == parent and nested.begun.stage == parent and nested.start.stage == ranked
    assert set(nested.objective) == {"ce", "kd", "budget"} and nested.trainer["groups"]["router"]["lr"] == 0.5
    assert all(
        stage.trainer is None and stage.start_epoch == "last" and stage.start.stage == nested for stage in slices
    )
    assert list(result.stage.members) == ["budget 1", "budget 0.7", "budget 0.4"] and result.stage.taught


def test_arms_have_the_same_parts_and_share_the_ranking():
    for name in Elastic.arms:
        result, stages = asked(Elastic(), control=name)
        assert list(result.stage.members) == ["budget 1", "budget 0.7", "budget 0.4"]
        epochs = [
            stage.trainer["epochs"] for stage in stages if stage.trainer and stage.role not in ("teacher", "ranked")
        ]
        assert sum(epochs) == {"alone": 27, "pruned": 0}.get(name, 9), name
        assert [stage.role for stage in stages].count("ranked") == (name != "alone")
    _, stages = asked(Elastic(), control="random")
    assert "budget" not in stages[2].objective and not stages[2].learner["network"]["router"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["student.budgets=[0.7,0.4]"], "from 1.0 down"),
        (["student.budgets=[1.0]"], "at least two"),
        (["student.budgets=[1.0,0.4,0.7]"], "from 1.0 down"),
        (["student.budgets=[1.0,0]"], "student.budgets"),
        (["strategy.cost=params"], "parameters"),
        (["strategy.widths=[0.5,1.0]"], "strategy.widths"),
        (["strategy.router_rate=0"], "above 0"),
        (["student.network.depth=14"], "cut out of the teacher"),
        (["strategy=vanilla", "student.budgets=[1.0,0.5]"], "student.budgets"),
        (["strategy.axes=[heads]", "strategy.calibration=0"], "at least 1"),
        (["trainer.activation_checkpointing=true"], "teacher.trainer.activation_checkpointing"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        job = compose(["strategy=elastic", *words])
        refuse_unused([job])
        cast = Cast(job.cells[0])
        from kdrun.targets import build

        strategy = build(job.cells[0]["strategy"], "strategy")
        strategy.check(cast)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = [
            "strategy=elastic",
            "strategy.controls=[pruned]",
            "trainer.epochs=3",
            "student.budgets=[1.0,0.5]",
            "card=false",
        ]
        assert main([*words, *SMALL, "-q"]) == 0
        yield folder, json.loads(next(folder.glob("outputs/runs/*/record.json")).read_text())


def test_a_run_has_a_part_for_each_budget(run):
    _, record = run
    stages = {stage["role"]: stage for stage in record["stages"]}
    assert stages["ranked"]["test"]["best"] == stages["teacher"]["test"]["best"]  # to the bit
    assert stages["ranked"]["val"]["best"] == stages["teacher"]["val"]["best"]
    assert set(record["summary"]["arms"]["student"]["several"]) == {"budget 1", "budget 0.5"}
    whole, half = (stages[f"student_{name}"]["parameters"] for name in ("1", "0.5"))
    assert whole == stages["teacher"]["parameters"] and 0.44 < half / whole < 0.53  # widths of four channels are coarse
    assert stages["pruned_0.5"]["parameters"] <= 0.5 * whole


def test_what_all_sizes_were_trained_on_is_counted_once(run):
    _, record = run
    arms, stages = record["summary"]["arms"], {stage["role"]: stage for stage in record["stages"]}
    assert arms["student"]["trained_on"] == {"mean": stages["student_nested"]["cost"]["samples"], "unit": "samples"}
    assert "trained_on" not in arms["pruned"] and stages["teacher"]["cost"]["samples"] > 0


def test_parts_of_several_sizes_have_a_size_and_a_place_in_figures_each(run):
    from kdrun.plots.data import run_points
    from kdrun.tracking.registry import RunInfo

    folder, record = run
    stages = {stage["role"]: stage["parameters"] for stage in record["stages"]}
    sizes = record["summary"]["arms"]["student"]["sizes"]
    assert sizes == {"budget 1": stages["student_1"], "budget 0.5": stages["student_0.5"]}
    assert "parameters_ratio" not in record["summary"]
    points = run_points(RunInfo("elastic", next(folder.glob("outputs/runs/*")), record, "done"))
    drawn = [point.costs["parameters"] for point in points if point.kind == "student"]
    assert sorted(drawn) == sorted(sizes.values())
    assert {"pruned", "student"} == {point.kind for point in points} and len(points) == 4


def test_each_part_is_a_network_of_its_own(run):
    folder, record = run
    identity = record["id"] if "id" in record else next(folder.glob("outputs/runs/*")).name
    networks = [kdrun.load(identity, part=name, outputs=folder / "outputs") for name in ("budget 1", "budget 0.5")]
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert sizes[1] < 0.6 * sizes[0]
    assert all(network(torch.zeros(3, 1, 8, 8)).shape == (3, 10) for network in networks)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=nmt_transformer", "teacher=nmt_t64"], "cannot be taken apart"),
        (
            ["model=text_small", "teacher=text_w64"],
            "0.4 of the parameters cannot be reached",
        ),  # most of them are embeddings
        (["teacher=resnet8", "strategy.axes=[heads]"], "of networks with attention alone"),
        (["teacher=resnet8", "strategy.cost=memory"], "strategy.cost=memory: not of ResNet"),
        (["teacher=resnet8", "student.budgets=[1.0,0.05]"], "cannot be reached"),
    ],
)
def test_networks_that_cannot_be_taken_apart_are_told_before_anything_is_fitted(
    words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["strategy=elastic", *words, "hardware=cpu", "tracker=none", "seeds=1", "-q"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("outputs/stages/*/weights*"))


LANGUAGE = [
    "model=lm_elastic",
    "data.samples=300",
    "data.terms=4",
    "trainer.batch_size=8",
    "trainer.epochs=1",
    "teacher.trainer.epochs=5",
]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic_language")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["strategy=elastic", "strategy.controls=[]", "student.budgets=[1.0,0.7]", "card=false", *LANGUAGE]
        assert main([*words, "hardware=cpu", "tracker=none", "seeds=1", "-q"]) == 0
        yield folder, next(folder.glob("outputs/runs/*/record.json")).parent


@pytest.mark.slow
def test_nested_language_models_are_checkpoints_of_transformers(language, monkeypatch):
    from transformers import AutoModelForCausalLM

    folder, run = language
    monkeypatch.chdir(folder)
    stages = {stage["role"]: stage for stage in json.loads((run / "record.json").read_text())["stages"]}
    assert stages["ranked"]["test"]["best"] == stages["teacher"]["test"]["best"]  # to the bit
    assert main(["export", run.name, "format=transformers"]) == 0
    model = AutoModelForCausalLM.from_pretrained(next(folder.glob("outputs/**/*0.7*/**/model.safetensors")).parent)
    assert sum(parameter.numel() for parameter in model.parameters()) == stages["student_0.7"]["parameters"]
    student = kdrun.load(run.name, part="budget 0.7", outputs=folder / "outputs").eval()
    ids = torch.randint(5, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = student(ids, torch.ones_like(ids, dtype=torch.bool))
        assert torch.allclose(model(ids).logits[..., : logits.shape[-1]], logits, atol=1e-5)


def test_students_think_for_each_other(language, monkeypatch, capsys):
    folder, run = language
    monkeypatch.chdir(folder)
    assert main(["think", run.name, "tokens=0,2", "count=6", "timed=1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["thinks"], row["answers"], row["tokens"]) for row in rows} == {
        ("budget 1", "budget 1", 0),
        ("budget 0.7", "budget 0.7", 0),
        *((one, other, 2) for one in ("budget 1", "budget 0.7") for other in ("budget 1", "budget 0.7")),
    }
    assert all(0 <= row["right"] <= 1 and row["seconds"] > 0 for row in rows) and any(row["front"] for row in rows)
    assert main(["think", run.name, "tokens=2", "count=6", "timed=1"]) == 0
    assert "tokens allowed" in capsys.readouterr().out
    for words in (["tokens=2,x"], ["tokes=2"], ["count=0"]):
        assert main(["think", run.name, *words]) == 2
        assert words[0] in capsys.readouterr().err


def test_it_is_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "strategy=elastic", "strategy.controls=[separate]", "trainer.epochs=2", *SMALL]) == 0
    page = capsys.readouterr().out
    assert "student_nested" in page and "separate_0.4" in page
