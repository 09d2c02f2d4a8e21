"""A package outside of kdrun adds a strategy, two losses, a metric, networks, a source and a kind of data; every verb takes them as
those of kdrun."""

import sys
from pathlib import Path

import pytest

import kdrun
from kdrun import kinds
from kdrun.cli import main
from kdrun.problems import UserError

HERE = str(Path(__file__).parent)
WORDS = (
    "strategy=better_ear", "objective=ears", "model=ears", "data.count=320", "trainer.optimizer.lr=0.05",
    "metrics.near._target_=tonelab.metric.WithinSteps", "metrics.near.steps=2",
    "metrics.f1._target_=torchmetrics.classification.MulticlassF1Score", "trainer.monitor=f1",
    "trainer.epochs=2", "teacher.trainer.epochs=8", "assistants.other.trainer.epochs=1", "trainer.batch_size=32", "teacher.tolerance=1",
    "seed=0", "tracker=none", "hardware=cpu", "card=false",
)  # fmt: skip


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "tonelab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outside")


@pytest.fixture
def run(outputs, monkeypatch):
    monkeypatch.chdir(outputs)
    return kdrun.run(*WORDS)


def test_a_kind_of_data_of_an_installed_package_is_one_of_those_there_are():
    assert "tones" in kinds.names() and kinds.find("tones").source_type().__name__ == "Waveforms"
    with pytest.raises(UserError, match=r"data\.task=tone: .*closest: tones"):
        kinds.find("tone")


def test_its_node_below_data_and_what_it_supplies_are_known_before_anything_runs():
    from kdrun.config.compose import compose

    job = compose(WORDS)
    assert (
        job.config["data"]["hearing"] == {"level": 0.5, "side": "both"}
        and "rate" not in job.config["student"]["network"]
    )
    assert (
        compose([*WORDS, "data.hearing.level=1"]).hash != job.hash == compose([*WORDS, "data.hearing.level=0.5"]).hash
    )
    for word, message in {
        "data.hearing.level=0": r"data\.hearing\.level=0: expected a number above 0",
        "data.hearing.levl=2": r"data\.hearing\.levl=2: no such key; closest: data\.hearing\.level",
        "data.hearing.side=lft": "expected one of left, right, both, got 'lft'; closest: left",
        "data.hering.level=2": r"data\.hering.*closest: data\.hearing",
    }.items():
        with pytest.raises(UserError, match=message):
            compose([*WORDS, word])
    assert "hearing" not in compose(["data=digits", "strategy=alone", "student=resnet8", "seed=0"]).config["data"]


def test_its_node_is_completed():
    from kdrun.verbs.completion import candidates

    assert list(candidates(["data=tones", "data.hearing.l"])) == ["data.hearing.level="]
    assert "data.hearing.side=left" in candidates(["data=tones", "data.hearing.side=l"])
    assert not candidates(["data=digits", "data.hearing.l"])


TABLE = """\
title: Ears
base: [%s]
seeds: 1
rows: [{id: ears}]
columns:
  - {id: pitch, metric: pitch_accuracy, bold: true}
  - {id: near, metric: near, bold: true}
"""


def test_a_column_and_the_objective_of_a_search_are_metrics_of_the_data_and_of_the_config(tmp_path, monkeypatch):
    from kdrun.config.compose import compose
    from kdrun.sweep.objectives import read_objectives
    from kdrun.tables.spec import TableRequest, compose_jobs
    from kdrun.tables.table_file import find_table, read_spec

    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "table").mkdir(parents=True)
    words = [word for word in WORDS if not word.startswith("seed")]
    (tmp_path / "conf" / "table" / "ears.yaml").write_text(TABLE % ", ".join(map(repr, words)))
    spec = read_spec(find_table("ears", ["conf"]))
    compose_jobs(TableRequest(spec, [], None), ["conf"])
    assert [column.definition["better"] for column in spec.columns] == ["max", "max"]
    jobs = [compose([*WORDS, "metrics.far._target_=tonelab.metric.WithinSteps", "metrics.far.mode=min"])]
    directions = {each.name: each.direction for each in read_objectives(["pitch_accuracy", "near", "far"], None, jobs)}
    assert directions == {"pitch_accuracy": "maximize", "near": "maximize", "far": "minimize"}
    with pytest.raises(UserError, match="no objective 'nera'; closest: near"):
        read_objectives(["nera"], None, jobs)


def test_plan_and_check_know_it(capsys, outputs, monkeypatch):
    monkeypatch.chdir(outputs)
    assert main(["plan", *WORDS]) == 0
    page = capsys.readouterr().out
    assert "tones" in page and "student/seed=0" in page
    wrong = [word.replace("MulticlassF1Score", "BinaryF1Score") for word in WORDS]
    assert main(["plan", *wrong]) == 2
    assert "metrics.f1: torchmetrics.classification.BinaryF1Score cannot judge this task" in capsys.readouterr().err


def test_a_run_has_its_metrics_in_record_and_page(run, capsys):
    student = next(stage for stage in run.record["stages"] if stage["role"] == "student")
    assert run.status == "done" and {"pitch_accuracy", "near", "f1"} <= set(student["test"]["best"])
    assert run.config["trainer"]["monitor"] == "f1" and run.record["summary"]["metric"] == "pitch_accuracy"
    assert student["test"]["best"]["near"] >= student["test"]["best"]["pitch_accuracy"]
    assert main(["show", run.id]) == 0
    page = capsys.readouterr().out
    assert "near" in page and "metrics of the config" in page


def test_its_networks_are_loaded_with_their_weights(run):
    import torch

    network = kdrun.load(run, "student")
    assert len(network.kdrun["classes"]) == 16 and network(torch.zeros(3, 1, 2000)).shape == (3, 16)


def test_its_strategy_chooses_on_validation_and_its_losses_teach(run):
    decision = run.record["summary"]["decisions"][0]
    values = decision["values"]
    assert decision["split"] == "val" and decision["chosen"] == max(values, key=values.get) == "teacher"
    student = next(stage for stage in run.record["stages"] if stage["role"] == "student")
    assert {"ce", "soft", "filters"} <= set(student["first_step"])
    assert all(term["gradient"] > 0 for term in student["first_step"].values())


@pytest.mark.parametrize("verb", ["show", "report", "plot", "card", "export", "energy"])
def test_every_command_takes_it(verb, run, capsys):
    code = main([verb, run.id])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.out


def test_it_is_compared_with_a_run_of_another_strategy(run, capsys):
    words = [word for word in WORDS if not word.startswith(("strategy", "assistants"))]
    other = kdrun.run(*words, "strategy=vanilla")
    assert main(["compare", run.id, other.id]) == 0
    assert "better_ear" in capsys.readouterr().out
