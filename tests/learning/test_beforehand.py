"""What the last stage of a job cannot build is told before the first one is fitted, with file and line of the user's code."""

import sys

import pytest

import kdrun
from kdrun.cli import main
from kdrun.learning.beforehand import _shapes_allowed
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError

CODE = """\
import torch
from torch import nn


def any_name(**options):
    return Net(**options)


class Net(nn.Module):
    def __init__(self, num_classes, inputs=64):
        super().__init__()
        self.layer = nn.Linear(inputs, num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Crash(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.rate = {}["rate"]


class Steps(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.steps = [step.item() for step in torch.linspace(0, 1, 3)]


def sgd(params, **options):
    return torch.optim.SGD(params, **options)
"""
BROKEN = """\
import torch
import not_there


class Net(torch.nn.Module): ...


def loss(student_logits, *, x=1): ...


def sgd(params): ...


class Mine: ...
"""
WORDS = ["teacher=mlp_16", "student=mlp_8", "trainer.epochs=1", "seed=0", "tracker=none", "card=false", "hardware=cpu"]


@pytest.fixture
def words(tmp_path, monkeypatch):
    (tmp_path / "my_code.py").write_text(CODE)
    (tmp_path / "my_broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield [*WORDS, "targets.my_code=true", "targets.my_broken=true", f"paths.outputs={tmp_path}/outputs"]
    for name in ("my_code", "my_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(
    "word",
    [
        "student.network={_target_: my_broken.Net}",
        "objective.mine={_target_: my_broken.loss, weight: 1}",
        "student.trainer.optimizer={_target_: my_broken.sgd}",
        "strategy={_target_: my_broken.Mine}",
    ],
)
def test_a_missing_import_in_a_module_of_the_users(verb, word, words, capsys, tmp_path):
    assert main([verb, *words, word]) == 2
    said = capsys.readouterr().err
    assert "cannot be imported: ModuleNotFoundError: No module named 'not_there'" in said
    assert "my_broken.py, line 2" in said and "bug" not in said
    assert not list((tmp_path / "outputs" / "store").glob("*/record.json")), "nothing was fitted"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("student.network={_target_: my_code.any_name, inptus: 3}", ["unexpected keyword argument 'inptus'", "my_code.py, line 6"]),
        ("student.network={_target_: my_code.Crash}", ["KeyError: 'rate'", "my_code.py, line 21"]),
        ("student.network={_target_: my_code.Net, inputs: 65}", ["does not run on images", "my_code.py, line 15"]),
        ("student.trainer.optimizer={_target_: my_code.sgd, lrr: 1}", ["unexpected keyword argument 'lrr'", "my_code.py, line 31"]),
        ("student.trainer.monitor=bleu", ["no such metric"]),
        ("student.trainer.parts=[projector]", ["projector"]),
        ("objective.kd_visual.weight=1", ["kd_visual is over positions of images", "'~objective.kd_visual'"]),
        ("objective.mse_kd.weight=1", ["objective.mse_kd wants student_outputs"]),
        ("objective.hint={student: nowhere}", ["objective.hint.student=nowhere", "has no module of this path"]),
        ("objective.hint={adaptor: nothing, student: a}", ["objective.hint.adaptor must be one of auto, none"]),
        ("objective.kd.temperature=0", ["objective.kd: temperature must be a positive number, got 0"]),
        ("objective.tf_kd={weight: 1, correct: 0.01}", ["objective.tf_kd: correct must lie between 1 / 10"]),
    ],
)  # fmt: skip
def test_what_the_student_cannot_build_is_told_before_its_teacher_is_trained(word, said, words):
    with pytest.raises(UserError) as error:
        kdrun.run(*words, word)
    assert all(part in str(error.value) for part in said), str(error.value)
    assert kdrun.RunView.find("last", next(w for w in words if "outputs" in w).partition("=")[2]).stages == []


def test_code_that_asks_for_values_while_it_builds_is_built_for_real(words):
    assert kdrun.run(*words, "student.network={_target_: my_code.Steps}", "strategy=alone").status == "done"


def test_shapes_that_a_loss_refuses_are_told_with_its_key_before_anything_is_trained():
    objective = build_objective(
        {"attention_relations": {"weight": 1.0, "heads": 12, "student": ["a"], "teacher": ["b"]}}
    )
    _shapes_allowed(objective, {"a": [(5, 24)]}, [{"b": [(5, 36)]}])
    with pytest.raises(UserError, match=r"objective.attention_relations: heads=12 must divide"):
        _shapes_allowed(objective, {"a": [(5, 24)]}, [{"b": [(5, 32)]}])
