"""Metrics that a config adds: what they are given, what is supplied, and what is refused before anything runs."""

import pytest
import torch

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.domains.tabular.spec import TableSpec
from kdrun.domains.tabular.task import Regression
from kdrun.domains.task import Prediction
from kdrun.problems import UserError

CLASSES = "torchmetrics.classification"
IMAGES = DataSpec("toy", ("a", "b", "c"), (1, 2, 2), {}, (0.0,), (1.0,))
TABLE = TableSpec("toy", ("x", "y"), "z", {}, (0.0, 0.0), (1.0, 1.0), 10.0, 2.0)


def scores(task, logits, targets):
    metrics, prediction, batch = task.collection(), Prediction(logits), {"targets": targets}
    task.update(metrics, prediction, batch)
    task.update_added(metrics, prediction, batch)
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize(
    "node",
    (
        {"_target_": f"{CLASSES}.MulticlassF1Score", "average": "macro"},
        {"_target_": f"{CLASSES}.F1Score", "average": "macro"},  # whose task is supplied, too
    ),
)
def test_a_metric_of_classes_has_their_number_and_the_logits(node):
    task = Classification(IMAGES).with_metrics({"f1": node})
    logits, targets = torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 1])
    found = scores(task, logits, targets)
    assert found["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3) and found["accuracy"] == 0.75
    assert task.METRICS["f1"] == "max" and "f1" not in Classification.METRICS


def test_a_metric_of_a_regression_is_in_units_of_the_target():
    node = {"_target_": "torchmetrics.regression.MeanAbsolutePercentageError"}
    task = Regression(TABLE).with_metrics({"mape": node})
    found = scores(task, torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 0.0]))
    assert found["mape"] == pytest.approx(0.1) and task.METRICS["mape"] == "min"  # 10 for 10, 12 for 10


def test_two_tasks_share_no_state():
    task = Classification(IMAGES).with_metrics({"f1": {"_target_": f"{CLASSES}.MulticlassF1Score"}})
    first = scores(task, torch.eye(3), torch.arange(3))
    assert first["f1"] == 1 and scores(task, torch.eye(3), torch.tensor([1, 2, 0]))["f1"] == 0


@pytest.mark.parametrize(
    ("name", "node", "said"),
    (
        ("accuracy", {"_target_": f"{CLASSES}.MulticlassF1Score"}, "the task has a metric of this name"),
        ("f1", {"_target_": f"{CLASSES}.BinaryF1Score"}, "cannot judge this task"),
        ("f1", {"_target_": f"{CLASSES}.MulticlassF1Score", "average": "none"}, "expected one number"),
        ("f1", {"_target_": "torchmetrics.functional.accuracy"}, "is refused: not a metric"),
        ("seen", {"_target_": "torchmetrics.SumMetric"}, "cannot judge this task"),
    ),
)
def test_what_does_not_fit_is_refused(name, node, said):
    with pytest.raises(UserError, match=said):
        Classification(IMAGES).with_metrics({name: node})
