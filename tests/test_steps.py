"""Who had how many optimisation steps: counted from stages, named in labels, and what the verdict is over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plots.records import stage
from test_summary import LABELS

from kdrun.cli import main
from kdrun.config.groups import shipped
from kdrun.config.option_file import load
from kdrun.job.steps import share_text
from kdrun.job.summary import summarise
from kdrun.present.results import result_rows
from kdrun.records import steps_spent
from kdrun.strategies.base import Strategy
from kdrun.targets import build

STRATEGIES = Path(shipped()) / "strategy"


def entry(name, steps, **more):
    return {"fingerprint": name, "cost": {"steps": steps}, **more}


def test_steps_are_those_of_all_stages_that_a_result_goes_on_from():
    stages = [
        entry("captions", 30), entry("first", 100, start="captions"), entry("second", 50, start="first"),
        entry("grey", 70), entry("all", 0, members={"a": "second", "b": "grey", "c": "first"}, counted=["a", "b"]),
    ]  # fmt: skip
    assert [steps_spent(name, stages) for name in ("grey", "second", "all")] == [70, 180, (180 + 70) / 2]
    assert steps_spent("second", stages[1:]) is None, "a stage that is not told of"


@pytest.mark.parametrize(
    ("steps", "of", "text"),
    [(300, 300, ""), (299, 300, ""), (100, 300, "a third of the steps"), (200, 300, "two thirds of the steps"),
     (111, 300, "37 % of the steps"), (450, 300, "1.5 times the steps"), (None, 300, ""), (0, 0, "")],
)  # fmt: skip
def test_a_share_of_steps_in_words(steps, of, text):
    assert share_text(steps, of) == text


def arms(**steps):
    """One seed of each arm with these steps; what had more is better by a point for each."""
    figures = {name: {"accuracy": 0.5 + spent / 100} for name, spent in steps.items()}
    return {
        name: {0: {**stage("alone", 0, 3, 0.0), "fingerprint": name, "spent": spent,
                   "test": dict.fromkeys(("best", "last"), figures[name])}}
        for name, spent in steps.items()
    }  # fmt: skip


def judged(steps, against="alone"):
    labels = LABELS | {"untaught": "student, the same steps on labels"}
    teacher = {
        0: {**stage("teacher", 0, 3, 0.0), "fingerprint": "t", "test": {w: {"accuracy": 0.9} for w in ("best", "last")}}
    }
    return summarise("accuracy", arms(**steps), labels, teacher, [0], {}, (), against)


def test_the_verdict_is_over_the_control_with_as_many_steps():
    summary = judged({"alone": 10, "student": 30, "equal_compute": 30})
    assert summary["compared_with"] == "equal_compute" and summary["difference"]["best"]["mean"] == 0
    assert "over the student alone, as many steps" in summary["verdict"]
    assert summary["arms"]["alone"]["label"] == "student alone, a third of the steps"
    assert summary["gap_closed"] == {"best": 0.0, "last": 0.0}
    assert ("gap closed, over as many steps", "0 %", "0 %", "") in result_rows(summary)


def test_without_such_a_control_the_verdict_says_what_it_is_over():
    summary = judged({"alone": 10, "student": 30})
    assert summary["compared_with"] == "alone"
    assert "over the student alone, a third of the steps" in summary["verdict"]


def test_a_control_of_the_strategys_own_comes_first():
    summary = judged({"alone": 10, "student": 30, "equal_compute": 30, "untaught": 30}, "untaught")
    assert summary["compared_with"] == "untaught"
    assert judged({"alone": 10, "student": 10}, "untaught")["compared_with"] == "alone"


def test_as_many_steps_need_no_second_control():
    assert judged({"alone": 10, "student": 10, "equal_compute": 10})["compared_with"] == "alone"


def test_a_strategy_of_several_stages_is_held_against_as_many_steps_by_default(tmp_path, capsys):
    words = "strategy=evolving model=mlp_ladder data.limit.train=300 trainer.epochs=2 trainer.batch_size=32 seed=0 tracker=none hardware=cpu"
    assert main([*words.split(), "teacher.tolerance=1", "card=false", f"paths.outputs={tmp_path}", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    steps = {name: arm["steps"] for name, arm in summary["arms"].items()}
    assert summary["compared_with"] == "equal_compute"
    assert steps["student"] == steps["equal_compute"] == 3 * steps["alone"] == 3 * steps["plain_kd"]
    assert summary["arms"]["plain_kd"]["label"].endswith("a third of the steps")


def test_a_table_says_that_a_control_had_fewer_steps():
    from kdrun.tables.metrics import measure

    summary = judged({"alone": 10, "student": 30, "equal_compute": 30})
    record = {"summary": summary, "seeds": [0], "config": {"strategy": {"_target_": "mylab.Own"}}, "stages": []}
    assert measure(record, "alone", "difference").remark == "the control had a third of the steps of the student"
    assert measure(record, "equal_compute", "difference").remark == ""
    assert measure(record, "student", "gap_closed").values["last"]["mean"] == 0.0


def test_rows_of_a_table_have_the_same_seeds(capsys):
    assert main(["table", "transfer", "seeds=auto"]) == 2
    assert "the rows of a table have the same seeds" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in STRATEGIES.glob("*.yaml")))
def test_whoever_spends_more_on_the_student_has_a_control_with_as_many_steps_by_default(name):
    """An arm of that kind is equal_compute, or what the strategy names as its own (`against`)."""
    node = load(str(STRATEGIES / f"{name}.yaml"))
    strategy = build({key: value for key, value in node.items() if key != "defaults"}, "strategy")
    if type(strategy).student_epochs is not Strategy.student_epochs:
        assert {"equal_compute", strategy.against} - {"alone"} & set(strategy.controls), strategy.controls
