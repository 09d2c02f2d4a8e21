"""seeds=auto: its levels and errors by simulation, what it decides, and a job that ends at a look."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kdrun.cli import main
from kdrun.config.compose import compose
from kdrun.differences import BETTER, SINGLE, SMALL, UNDECIDED, corrected, difference_of, read_difference
from kdrun.looks import SLOPES, Rule, looks_until, read_rule
from kdrun.problems import UserError

SMALL_JOB = [
    "model=mlp_ladder",
    "data.limit.train=200",
    "trainer.epochs=2",
    "trainer.batch_size=32",
    "tracker=none",
    "hardware=cpu",
    "card=false",
    "teacher.tolerance=1",
    "seeds=auto:5",
]


def script(name):
    """A module of scripts/."""
    path = Path(__file__).parent.parent / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_in_twenty_jobs_without_an_effect_ends_with_one():
    """By scipy's test at every look, which shares nothing with the script that the constants are from."""
    values = np.random.default_rng(3).normal(0.0, 0.7, (3_000, 20))
    p_values = {n: stats.ttest_1samp(values[:, :n], 0.0, axis=1).pvalue for n in (3, 5, 8, 12, 20)}
    wrong = np.any([p < SLOPES[20] * n for n, p in p_values.items()], axis=0).mean()
    assert 0.04 < wrong < 0.06  # two and a half standard errors


def test_constants_are_those_of_the_script():
    module = script("simulate_seeds")
    assert module.slopes(200_000) == pytest.approx(SLOPES, rel=0.04)
    equal, different = (module.simulated("normal", effect, 20, 10_000) for effect in (0.0, 2.0))
    assert equal["effect"] == pytest.approx(0.05, abs=0.007) and equal["held"] == pytest.approx(0.95, abs=0.007)
    assert different["effect"] > 0.99 and different["wrong"] == 0 and 5 < different["seeds"] < 8


def pairs(*differences):
    return difference_of(
        {n: 0.5 + value for n, value in enumerate(differences)}, dict.fromkeys(range(len(differences)), 0.5)
    )


def test_a_look_is_held_against_the_level_of_its_seeds():
    rule = Rule.of(looks_until(12))

    def decision(difference, seeds):
        return rule.look(seeds, difference)["decision"]

    clear, barely = pairs(0.02, 0.021, 0.0205), pairs(0.02, 0.01, 0.03, 0.021, 0.004)
    assert decision(clear, 3) == BETTER and decision(pairs(0.01, 0.02, 0.03), 3) == UNDECIDED
    assert barely.decision() == BETTER and rule.level(3) < barely.p_value < rule.level(12)
    assert decision(barely, 3) == UNDECIDED and decision(barely, 12) == BETTER
    assert decision(pairs(0.001, -0.001, 0.0005, -0.0002, 0.0), 5) == SMALL
    assert decision(pairs(0.1), 3) == SINGLE == decision(None, 3)
    found = rule.at(corrected({"alone": barely, "other": clear})["alone"], 5)
    assert found.interval == pytest.approx(stats.t.interval(1 - 5 * SLOPES[12], 4, barely.mean, barely.error))
    assert found.p == barely.p_value, "the one comparison that was named beforehand"
    assert found.visible > barely.visible and read_difference(found.as_record()) == found
    assert read_rule(rule.as_record()) == rule


def test_seeds_auto_is_all_seeds_and_where_to_look():
    auto, less, fixed = (compose([f"seeds={word}"]) for word in ("auto", "auto:8", 20))
    assert auto.config["looks"] == [3, 5, 8, 12, 20] and len(auto.cells) == 20 and fixed.config["looks"] is None
    assert less.config["looks"] == [3, 5, 8] and less.config["seeds"] == list(range(8))
    assert len({auto.hash, less.hash, fixed.hash}) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [(["seeds=auto:7"], "seeds=auto:7: seeds=auto ends at 3, 5, 8"), (["seeds=aut"], "or seeds=auto"),
     (["looks=[3]"], "seeds=auto says when it looks")],
)  # fmt: skip
def test_what_it_cannot_be(words, text):
    with pytest.raises(UserError, match=text.replace("[", "\\[")):
        compose(words)


def test_without_a_control_there_is_nothing_to_look_at(capsys):
    assert main(["strategy=alone", "seeds=auto"]) == 2
    assert "strategy.controls is empty" in capsys.readouterr().err


def test_the_plan_says_what_the_first_look_and_all_seeds_cost(tmp_path, capsys):
    assert main(["plan", *SMALL_JOB, f"paths.outputs={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "seeds auto, 3 to 5" in said
    assert (
        "3 seeds, where seeds=auto looks first: 7 stages to run" in said
        and "5 seeds, the most: 11 of 11 stages" in said
    )


def test_a_killed_job_comes_to_the_same_looks_and_ends_where_it_is_decided(tmp_path, capsys, monkeypatch):
    import kdrun.job.sequential as sequential

    fit_cells, words = sequential.fit_cells, [*SMALL_JOB, f"paths.outputs={tmp_path}", "--json"]

    def killed(cells, *rest):
        if cells[0]["seed"] == 3:
            raise KeyboardInterrupt
        return fit_cells(cells, *rest)

    monkeypatch.setattr(sequential, "fit_cells", killed)
    monkeypatch.setattr(sequential, "ends", lambda decision: False)
    assert main(words) == 130
    monkeypatch.setattr(sequential, "fit_cells", fit_cells)
    capsys.readouterr()
    assert main(words) == 0
    run = json.loads(capsys.readouterr().out)
    record = json.loads((Path(run["path"]) / "record.json").read_text())
    made = record["summary"]["sequential"]["made"]
    assert [look["seeds"] for look in made] == [3, 5] and record["seeds"] == [0, 1, 2, 3, 4]
    assert {stage["source"] for stage in record["stages"] if stage["seed"] < 3} == {"store"}
    difference = record["summary"]["difference"][record["summary"]["headline"]["which"]]
    assert made[-1]["mean"] == pytest.approx(difference["mean"]) and made[-1]["n"] == 5
    assert difference["level"] == made[-1]["level"] and difference["interval"] == pytest.approx(made[-1]["interval"])
    assert "95 % interval of all looks" in record["summary"]["verdict"] and "needed)" in record["summary"]["verdict"]
    # the same stages, ended at the first look
    monkeypatch.setattr(sequential, "ends", lambda decision: True)
    assert main([*words, "--force"]) == 0
    record = json.loads((Path(json.loads(capsys.readouterr().out)["path"]) / "record.json").read_text())
    assert record["seeds"] == [0, 1, 2] and record["summary"]["arms"]["student"]["n"] == 3
    assert record["summary"]["sequential"]["made"][0]["mean"] == pytest.approx(made[0]["mean"])
