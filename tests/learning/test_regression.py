"""A regression from the command to its summary: what is monitored, what teaches, what comes out, and what is refused."""

import math

import pytest
import torch

import kdrun
from kdrun.domains.tabular.task import Regression
from kdrun.domains.task import Prediction
from kdrun.job.compose import compose
from kdrun.learning.teacher import FrozenTeacher, renormalisation
from kdrun.problems import UserError

from .stages import make_lab, teach

WORDS = ("data=diabetes", "teacher=mlp_64", "student=mlp_8", "objective=mse_kd", "trainer.optimizer.lr=0.01")


def test_the_main_metric_is_monitored_where_nothing_else_was_said():
    def monitor(*words: str) -> str:
        return compose(words).config["trainer"]["monitor"]

    assert monitor(*WORDS) == monitor(*WORDS, "trainer=quick") == "r2"
    assert monitor(*WORDS, "trainer.monitor=rmse") == "rmse"
    assert monitor(*WORDS, "trainer.monitor=accuracy") == "accuracy"  # a mistake, told before the first step
    assert monitor("teacher=mlp_64", "student=mlp_8") == "accuracy"


def test_vanilla_distillation_of_a_regression(tmp_path):
    words = (*WORDS, "seeds=2", "hardware=cpu", "tracker=none", "card=false", f"paths.outputs={tmp_path / 'outputs'}")
    planned = kdrun.plan(*words)
    terms = {name: found for stage in planned["stages"] for name, found in stage["terms"].items()}
    assert terms.keys() == {"mse", "mse_kd"} and terms["mse_kd"]["identity"] == 0.0
    assert planned["data"]["about"] == "10 features, target disease progression"
    view = kdrun.run(*words)
    summary = view.summary
    assert summary["metric"] == "r2"
    # Least squares explains 0.50 of the variance of this test split.
    assert 0.4 < summary["teacher"]["best"] < 0.6
    assert all(0.4 < arm["best"]["mean"] < 0.6 for arm in summary["arms"].values())
    teacher, student = (next(s for s in view.stages if s["role"] == role) for role in ("teacher", "student"))
    scores = student["test"]["best"]
    assert scores.keys() == {"rmse", "mae", "r2", "loss"} and 40 < scores["mae"] < scores["rmse"] < 65
    assert teacher["first_step"].keys() == {"mse"} and student["first_step"].keys() == {"mse", "mse_kd"}
    assert student["teacher"]["source"] == "cached" and student["teacher"]["r2"] == pytest.approx(
        teacher["val"]["best"]["r2"], abs=1e-6
    )
    assert {stage["status"] for stage in kdrun.plan(*words)["stages"]} == {"done"}
    network = kdrun.load(view.id, outputs=tmp_path / "outputs")
    assert sum(parameter.numel() for parameter in network.parameters()) == 97


def test_a_cached_teacher_teaches_as_the_live_one(tmp_path):
    words = (*WORDS, "data.limit.train=null", "trainer.epochs=2")
    found = [
        teach(make_lab(tmp_path / source), *words, f"teacher.source={source}").record for source in ("cached", "online")
    ]
    assert math.isclose(*(record["test"]["best"]["rmse"] for record in found), rel_tol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5), (3, 2, 4, 5)])
def test_a_teacher_of_another_normalisation_sees_rows_pictures_and_volumes_as_it_learned_to(shape):
    class Same(torch.nn.Module):
        def forward(self, inputs):
            return inputs.flatten(1)[:, :: math.prod(shape[1:])]  # the first value of each channel

    class Any(Regression):
        def predict(self, network, inputs):
            return Prediction(network(inputs))

    raw = 5 + torch.randn(2, *shape)
    moments = torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.5, 2.5]])
    own, other = moments, {"mean": [4.0, 5.0, 6.0], "std": [2.0, 3.0, 4.0]}
    spread = (3, *(len(shape) - 1) * (1,))
    student = (raw - own[0].view(spread)) / own[1].view(spread)
    expected = (raw - torch.tensor(other["mean"]).view(spread)) / torch.tensor(other["std"]).view(spread)
    teacher = FrozenTeacher(Same(), Any(None), "0", renormalisation(own.tolist(), other))
    found = teacher.outputs({"inputs": student}).logits
    assert torch.allclose(found, Same()(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("objective=kd", "objective.ce wants student_logits, which this task does not give"),
        ("trainer.monitor=accuracy", "trainer.monitor=accuracy: this task has no such metric"),
        ("student=resnet8", "does not run on rows of 10 features"),
        ("trainer.gap=true", "trainer.gap: a divergence is one of distributions"),
        ("objective=cross_window", "compares features, which this task does not give"),
    ],
)
def test_what_is_for_classes_is_refused(word, told, tmp_path):
    with pytest.raises(UserError, match=told):
        teach(make_lab(tmp_path), *WORDS, "trainer.epochs=2", word)
