"""A strategy of a user whose result has a part for each budget: every command shows, exports and loads its parts."""

import json
import re
import sys

import pytest

from kdrun import api
from kdrun.cli import main
from kdrun.hardware.exports.subjects import stages_of
from kdrun.problems import UserError
from kdrun.tracking.registry import find_run

MODULE = '''
from dataclasses import dataclass
from kdrun.lab.stages.combine import Combine
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import distil, supervised

@dataclass(frozen=True)
class Budgets(Strategy):
    """A student for each budget of epochs."""

    def run(self, lab, cast):
        teacher = lab.get(supervised(cast.teacher))
        stages = {f"{n} epochs": distil(cast.student, teacher, role=f"budget_{n}", epochs=n) for n in (1, 2)}
        parts = {name: lab.get(stage) for name, stage in stages.items()}
        return lab.get(Combine("student", parts, tuple(parts), None, cast.config["seed"], teacher))
'''
WORDS = (
    "strategy._target_=mybudgets.Budgets seed=0 teacher=mlp_64 student=mlp_8 trainer.epochs=1 data.limit.train=200 "
    "hardware=cpu tracker=none card=false"
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budgets")
    (folder / "mybudgets.py").write_text(MODULE)
    (folder / "conf" / "strategy").mkdir(parents=True)
    (folder / "conf" / "strategy" / "budgets.yaml").write_text("_target_: mybudgets.Budgets\ncontrols: [alone]\n")
    (folder / "conf" / "kdrun.yaml").write_text("targets: {mybudgets: true}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        words = WORDS.replace("strategy._target_=mybudgets.Budgets", "strategy=budgets").split()
        assert main(["--conf", "conf", *words, "-q"]) == 0
        (path,) = folder.glob("outputs/runs/*/record.json")
        yield json.loads(path.read_text())


def test_the_summary_has_a_figure_for_each_part_and_their_mean(ran):
    student = ran["summary"]["arms"]["student"]
    several = {name: found["mean"] for name, found in student["several"].items()}
    assert list(several) == ["1 epochs", "2 epochs"]
    assert student["best"]["mean"] == pytest.approx(sum(several.values()) / 2)


@pytest.mark.parametrize("words", [["show"], ["report"], ["plot"], ["energy"], ["runs"]])
def test_every_command_takes_it(ran, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(words) == 0
    said = " ".join(re.sub("[│]", " ", capsys.readouterr().out).split())
    if words == ["show"]:
        assert "1 epochs" in said and "2 networks" in said


def test_a_part_is_loaded_and_exported_by_its_name(ran):
    one, two = (api.load("last", part=f"{n} epochs", targets=["mybudgets"]) for n in (1, 2))
    assert one.kdrun["stage"] == "budget_1/seed=0" and two.kdrun["stage"] == "budget_2/seed=0"
    with pytest.raises(UserError, match=r"1 epochs.* 2 epochs"):
        api.load("last", targets=["mybudgets"])
    found = stages_of(find_run("outputs", "last"), None, ["student"], "best", lambda line: None)
    assert [(chosen["part"], chosen["stage"]["role"]) for chosen in found] == [
        ("1 epochs", "budget_1"),
        ("2 epochs", "budget_2"),
    ]
