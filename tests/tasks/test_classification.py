from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdrun.domains.images.domain import DOMAIN
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.domains.task import Prediction
from kdrun.objectives.terms import build_objective

SPEC = DataSpec("letters", tuple("abc"), (1, 4, 4), {"train": 5, "val": 2, "test": 2}, (0.5,), (0.5,))


class Wrapped(nn.Module):
    """A linear network with its logits wrapped as some library does."""

    def __init__(self, wrap=lambda logits: logits, classes: int = 3):
        super().__init__()
        self.head, self.wrap = nn.Linear(16, classes), wrap

    def forward(self, images):
        return self.wrap(self.head(images.flatten(1)))


def batch(size: int = 6) -> dict:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (size,), generator=generator)
    return {"inputs": torch.randn(size, 1, 4, 4, generator=generator), "targets": targets, "ids": torch.arange(size)}


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: SimpleNamespace(logits=x), lambda x: {"logits": x}, lambda x: (x, None)],
    ids=["tensor", "object", "mapping", "tuple"],
)
def test_any_usual_output_gives_the_logits(wrap):
    task, network = Classification(SPEC), Wrapped(wrap)
    inputs = batch()["inputs"]
    prediction = task.predict(network, inputs)
    assert torch.equal(prediction.logits, network.head(inputs.flatten(1)))
    assert prediction.mask is None


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Wrapped(classes=4), r"\(6, 4\)"),
        (Wrapped(lambda x: x[:, :, None]), r"\(6, 3, 1\)"),
        (Wrapped(lambda x: x[:1]), r"\(1, 3\)"),
    ],
)
def test_logits_of_another_shape_are_refused(network, shape):
    with pytest.raises(ValueError, match=rf"shape {shape}, expected \(6, 3\): letters has 3 classes"):
        Classification(SPEC).predict(network, batch()["inputs"])


def test_the_shipped_objectives_find_their_tensors():
    task, data = Classification(SPEC), batch()
    student, teacher = (task.predict(Wrapped(), data["inputs"]) for _ in range(2))
    tensors = task.tensors(data, student, teacher)
    assert task.count(data) == 6
    objective = build_objective({"ce": {"weight": 0.5}, "kd": {"weight": 0.5}})
    total, raw = objective(tensors, task.count(data))
    assert total.item() > 0 and set(raw) == {"ce", "kd"}
    assert task.tensors(data, student, None)["teacher_logits"] is None


def test_the_metrics_are_the_declared_ones_and_take_any_float_type():
    task, data = Classification(SPEC), batch()
    metrics = task.metrics()
    logits = task.predict(Wrapped(), data["inputs"]).logits
    for dtype in (torch.float32, torch.bfloat16):
        task.update(metrics, Prediction(logits.to(dtype)), data)
    found = metrics.compute()
    assert list(found) == list(task.METRICS)
    assert set(task.METRICS.values()) == {"max", "min"}
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in found.values())


def test_the_loss_metric_has_the_scale_of_the_cross_entropy_that_is_trained():
    task, data = Classification(SPEC), batch()
    metrics, student = task.metrics(), task.predict(Wrapped(), data["inputs"])
    task.update(metrics, student, data)
    raw = build_objective({"ce": {"weight": 0.3}})(task.tensors(data, student, None), task.count(data))[1]
    assert metrics.compute()["loss"].item() == pytest.approx(raw["ce"].item(), rel=1e-5)


def test_two_tasks_do_not_share_metrics():
    task, data = Classification(SPEC), batch()
    one, other = task.metrics(), task.metrics()
    task.update(one, task.predict(Wrapped(), data["inputs"]), data)
    task.update(other, Prediction(torch.eye(3)[data["targets"]]), data)
    assert other.compute()["accuracy"].item() == 1.0


def test_rows_say_of_each_test_sample_what_accuracy_counts():
    task, network, made = Classification(SPEC), Wrapped(), batch(40)
    metrics = task.metrics()
    rows = task.evaluate(metrics, network, made, final=True)
    sums = DOMAIN.sums(rows[0])["accuracy"]
    assert [row["id"] for row in rows] == list(range(40))
    assert sums.score(sums.numbers(rows).sum(0)[None])[0] == pytest.approx(metrics.compute()["accuracy"].item())
    assert task.evaluate(task.metrics(), network, made) == rows, "after an epoch as well"
    broken = Prediction(torch.full((6, 3), float("nan")))
    assert [row["right"] for row in task.rows(broken, batch())] == [0] * 6, "what is not a number is not right"
