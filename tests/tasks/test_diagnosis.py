import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from kdrun.auc import macro_auc
from kdrun.domains.ct.scores import DiagnosisScores
from kdrun.domains.ct.task import Diagnosis
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.scores import ClassificationScores
from kdrun.domains.task import Prediction
from kdrun.measures import measure


def task(classes: int = 3) -> Diagnosis:
    names = tuple("abcdefghijkl"[:classes])
    return Diagnosis(DataSpec("organs", names, (1, 2, 2), {"train": 5, "val": 2, "test": 2}, (0.5,), (0.5,)))


def made(samples: int = 90, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator) + nn.functional.one_hot(targets, classes)
    return logits, targets


def scores(logits, targets, batch: int = 1000) -> dict[str, float]:
    metric = DiagnosisScores(logits.shape[1])
    for part in zip(logits.split(batch), targets.split(batch), strict=True):
        metric.update(*part)
    return {name: value.item() for name, value in metric.compute().items()}


def test_the_auc_is_that_of_the_probabilities_one_class_against_the_rest():
    logits, targets = made()
    expected = roc_auc_score(targets, logits.double().softmax(1), multi_class="ovr", average="macro")
    assert scores(logits, targets)["auc"] == pytest.approx(expected, abs=1e-12)
    logits, targets = made(classes=2)
    assert scores(logits, targets)["auc"] == pytest.approx(roc_auc_score(targets, logits[:, 1] - logits[:, 0]))


def test_other_scores_are_those_of_a_classifier():
    logits, targets = made()
    metric = ClassificationScores(3)
    metric.update(logits, targets)
    plain = {name: value.item() for name, value in metric.compute().items() if name != "top5"}
    found = scores(logits, targets)
    assert {name: value for name, value in found.items() if name != "auc"} == plain


def test_a_class_that_does_not_occur_is_in_no_mean():
    logits, targets = made(classes=4)
    targets[targets == 2] = 1
    expected = np.mean([roc_auc_score(targets == one, logits.double().softmax(1)[:, one]) for one in (0, 1, 3)])
    assert scores(logits, targets)["auc"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 89])
def test_any_split_into_batches_gives_the_same_digits(batch):
    assert scores(*made(), batch) == scores(*made())


def test_ranks_are_gathered_before_anything_is_computed():
    logits, targets = made()
    ranks = [DiagnosisScores(3), DiagnosisScores(3)]
    for part in zip(logits[:70].split(20), targets[:70].split(20), strict=True):
        ranks[0].update(*part)
    ranks[1].update(logits[70:], targets[70:])
    # The other rank's states in the order in which torchmetrics asks for them, as its all_gather returns them.
    theirs = iter(
        torch.cat(state) if isinstance(state, list) else state
        for state in (getattr(ranks[1], name) for name in ranks[1]._reductions)
    )
    ranks[0].dist_sync_fn = lambda own, group: [own, next(theirs)]
    ranks[0].distributed_available_fn = lambda: True
    together = {name: value.item() for name, value in ranks[0].compute().items()}
    assert together == scores(logits, targets)
    assert len(torch.cat(ranks[0].every_target)) == 70  # its own again, for what comes next


def test_what_cannot_be_ranked_is_nan():
    logits, targets = made()
    assert math.isnan(scores(logits, torch.ones_like(targets))["auc"])
    logits[3] = float("nan")
    assert math.isnan(scores(logits, targets)["auc"])
    with pytest.warns(UserWarning, match="before"):
        assert math.isnan(DiagnosisScores(3).compute()["auc"])


def test_the_metrics_are_the_declared_ones_and_take_any_float_type():
    logits, targets = made()
    for dtype in (torch.float32, torch.bfloat16):
        metrics = task().metrics()
        task().update(metrics, Prediction(logits.to(dtype).requires_grad_()), {"targets": targets})
        found = metrics.compute()
        assert list(found) == list(task().METRICS)
        assert task().METRICS == {"auc": "max", "accuracy": "max", "worst_class": "max", "loss": "min",
                                  "calibration": "min"}  # fmt: skip
        assert not any(value.requires_grad for value in found.values())
    assert task().MAIN == task().PREFLIGHT == "auc" and task().trivial([targets]) == 0.5


def test_rows_are_kept_at_the_end_and_say_what_was_judged():
    network, generator = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.Generator().manual_seed(0)
    targets = torch.arange(40) % 3
    batch = {
        "inputs": torch.randn(40, 1, 2, 2, generator=generator) * 30,
        "targets": targets,
        "ids": torch.arange(100, 140),
    }
    metrics = task().metrics()
    assert {frozenset(row) for row in task().evaluate(metrics, network, batch)} == {frozenset(("id", "right"))}
    rows = task().evaluate(metrics, network, batch, final=True)
    assert [(row["id"], row["target"]) for row in rows] == [(100 + n, n % 3) for n in range(40)]
    kept = np.asarray([row["probabilities"] for row in rows])
    expected = network(batch["inputs"]).detach().double().softmax(1).numpy()
    np.testing.assert_allclose(kept, expected, rtol=1e-8)
    assert all(float(f"{value:.9g}") == value for value in kept.ravel())
    metrics = task().metrics()
    task().evaluate(metrics, network, batch)
    assert metrics.compute()["auc"].item() == macro_auc(targets, kept)


def rows(targets, positives):
    return [
        {"id": place, "target": target, "probabilities": [1 - value, value]}
        for place, (target, value) in enumerate(zip(targets, positives, strict=True))
    ]


def test_sensitivity_and_specificity_are_at_the_threshold_of_validation():
    val = rows([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9])
    test = rows([0, 0, 0, 1, 1], [0.1, 0.24, 0.6, 0.26, 0.2])
    assert task(2).row_scores(test, val) == {
        "sensitivity": 0.5, "specificity": pytest.approx(2 / 3), "threshold": pytest.approx(0.25)
    }  # fmt: skip


def test_what_has_no_threshold_is_left_out():
    val = rows([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9])
    assert task(3).row_scores(val, val) == {}
    assert task(2).row_scores(val, rows([0, 0], [0.1, 0.2])) == {} == task(2).row_scores(val, [])
    assert set(task(2).row_scores(rows([1], [0.4]), val)) == {"sensitivity", "threshold"}
    assert task(2).KEEPS == ("val",)


def test_auc_is_shown_with_four_digits_and_shares_in_percent_of_parts_too():
    assert measure("auc").text(0.91234) == "0.9123" and measure("auc").title == "AUC"
    assert measure("sensitivity").text(0.8) == "80.00 %" and measure("specificity").better == "max"
    assert (measure("auc/lung").title, measure("auc/lung").text(0.5)) == ("AUC (lung)", "0.5000")
    assert measure("auc/40/400").title == "AUC (40/400)"
    assert measure("accuracy/combined").title == "accuracy (combined), %"
    assert measure("own/part").text(0.5) == "0.5000" and measure(None) == measure("accuracy")
