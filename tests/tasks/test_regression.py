import math
import random

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import nn

from kdrun.domains.tabular.domain import DOMAIN
from kdrun.domains.tabular.scores import RegressionScores
from kdrun.domains.tabular.spec import TableSpec
from kdrun.domains.tabular.task import Regression
from kdrun.domains.task import Prediction
from kdrun.measures import measure

UNIT = 77.0


def task(features: int = 3) -> Regression:
    names, ones = tuple("abcdefgh"[:features]), (1.0,) * features
    return Regression(TableSpec("houses", names, "price", {"train": 5, "val": 2, "test": 2}, ones, ones, 150.0, UNIT))


def made(samples: int = 90, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(samples, generator=generator)
    return targets + 0.5 * torch.randn(samples, generator=generator), targets


def found(outputs, targets, batch: int = 1000) -> dict[str, float]:
    metric = RegressionScores(UNIT)
    for part in zip(outputs.split(batch), targets.split(batch), strict=True):
        metric.update(*part)
    return {name: value.item() for name, value in metric.compute().items()}


def test_scores_are_those_of_scikit_learn_in_units_of_the_target():
    outputs, targets = made()
    raw = [UNIT * values.double().numpy() + 150 for values in (targets, outputs)]
    scores = found(outputs, targets)
    assert scores["rmse"] == pytest.approx(math.sqrt(mean_squared_error(*raw)), rel=1e-12)
    assert scores["mae"] == pytest.approx(mean_absolute_error(*raw), rel=1e-12)
    assert scores["r2"] == pytest.approx(r2_score(*raw), rel=1e-12)
    assert scores["loss"] == pytest.approx(nn.functional.mse_loss(outputs, targets).item(), rel=1e-6)
    assert scores.keys() == Regression.METRICS.keys()


def test_batches_ranks_and_order_change_no_digit():
    outputs, targets = made()
    expected = found(outputs, targets)
    order = torch.tensor(random.Random(0).sample(range(90), 90))
    assert all(found(outputs[order], targets[order], batch) == expected for batch in (1, 7, 64))
    ranks = [RegressionScores(UNIT) for _ in range(2)]
    for rank, metric in enumerate(ranks):
        metric.update(outputs[rank::2], targets[rank::2])
    # As torchmetrics leaves the states once they were gathered: tensors, not lists.
    ranks[0].every_output, ranks[0].every_target = (
        torch.cat([getattr(metric, name)[0] for metric in ranks]) for name in ("every_output", "every_target")
    )
    assert {name: value.item() for name, value in ranks[0].compute().items()} == expected


def test_the_mean_explains_nothing_and_worse_is_negative():
    _, targets = made()
    mean = targets.double().mean().float().expand(90)
    assert found(mean, targets)["r2"] == pytest.approx(0, abs=1e-6)
    assert found(mean + 1, targets)["r2"] < 0
    assert found(targets, targets) == {"rmse": 0.0, "mae": 0.0, "r2": 1.0, "loss": 0.0}
    assert task().trivial([targets]) == 0.0


def test_what_is_not_known_is_nan():
    assert all(map(math.isnan, (value.item() for value in RegressionScores(1.0).compute().values())))
    outputs, targets = made(5)
    for broken in (math.nan, math.inf, -math.inf):
        outputs[2] = broken
        assert all(map(math.isnan, found(outputs, targets).values()))
    alike = found(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    assert math.isnan(alike["r2"]) and alike["rmse"] == pytest.approx(UNIT * math.sqrt(0.5))


def test_predictions_tensors_and_metrics_of_a_batch():
    regression, network = task(), nn.Linear(3, 1)
    batch = {"inputs": torch.randn(4, 3), "targets": torch.randn(4), "ids": torch.arange(4)}
    said = regression.predict(network, batch["inputs"])
    assert said.logits.shape == (4, 1)
    tensors = regression.tensors(batch, said, None)
    assert tensors["teacher_outputs"] is None and tensors["student_outputs"] is said.logits
    assert not {"student_logits", "teacher_logits"} & tensors.keys()  # a term of classes does not find what it wants
    assert regression.tensors(batch, said, said)["teacher_outputs"] is said.logits
    assert regression.count(batch) == regression.size(batch["inputs"]) == 4 and regression.flops(network) == 6
    metrics = regression.metrics()
    assert regression.evaluate(metrics, network, batch) is None
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values["loss"] == pytest.approx((said.logits[:, 0] - batch["targets"]).square().mean().item(), rel=1e-6)
    half = regression.metrics()
    regression.update(half, Prediction(said.logits.bfloat16()), batch)
    assert float(half.compute()["loss"]) == pytest.approx(values["loss"], rel=0.05)


@pytest.mark.parametrize("shape", [(3, 2), (3,)])
def test_another_shape_is_refused(shape):
    class Wrong(nn.Module):
        def forward(self, inputs):
            return torch.zeros(shape)

    with pytest.raises(ValueError, match=r"Wrong returned .* expected \(3, 1\): one number per sample"):
        task().predict(Wrong(), torch.zeros(3, 3))


def test_how_the_scores_are_shown():
    assert measure("r2").text(0.49876) == "0.4988" and measure("r2").points
    assert measure("rmse").text(53.2468) == "53.247" and measure("rmse").title == "RMSE, units"
    assert not measure("rmse").points and not measure("mae").points
    assert {name: measure(name).better for name in Regression.METRICS} == dict(Regression.METRICS)


def test_the_spec_says_how_to_get_back_to_units():
    spec = TableSpec.of(task().spec.metadata())
    assert {**vars(spec), "sizes": None} == {**vars(task().spec), "sizes": None} and spec.sizes == {}
    assert spec.shape == (3,) and spec.about == "3 features, target price"
    assert np.isclose(2.0 * spec.target_std + spec.target_mean, 304.0)


def test_rows_give_r2_from_sums_over_any_samples():
    outputs, targets = made()
    batch = {"ids": torch.arange(90), "targets": targets}
    rows = task().rows(Prediction(outputs[:, None]), batch)
    assert rows[3] == {
        "id": 3,
        "output": pytest.approx(outputs[3].item() * UNIT + 150),
        "target": pytest.approx(targets[3].item() * UNIT + 150),
    }
    sums = DOMAIN.sums(rows[0])["r2"]
    chosen = np.random.default_rng(0).integers(90, size=(5, 90))
    times = np.stack([np.bincount(draw, minlength=90) for draw in chosen])
    slow = [r2_score([rows[n]["target"] for n in draw], [rows[n]["output"] for n in draw]) for draw in chosen]
    assert sums.score(times @ sums.numbers(rows)) == pytest.approx(slow, rel=1e-6)
