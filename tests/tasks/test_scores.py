import math

import pytest
import torch
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from kdrun.domains.scores import ClassificationScores


def made(samples: int = 97, classes: int = 7, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator) * 3 + functional.one_hot(targets, classes) * 2
    return logits, targets


def scores(logits, targets, batch: int | None = None) -> dict[str, float]:
    metric = ClassificationScores(logits.shape[1])
    for part in zip(logits.split(batch or len(logits)), targets.split(batch or len(logits)), strict=True):
        metric.update(*part)
    return {name: value.item() for name, value in metric.compute().items()}


def test_agrees_with_torchmetrics_and_torch():
    logits, targets = made()
    found = scores(logits, targets)
    assert found["accuracy"] == pytest.approx(multiclass_accuracy(logits, targets, 7, average="micro").item())
    assert found["top5"] == pytest.approx(multiclass_accuracy(logits, targets, 7, average="micro", top_k=5).item())
    assert found["worst_class"] == pytest.approx(multiclass_accuracy(logits, targets, 7, average=None).min().item())
    assert found["loss"] == pytest.approx(functional.cross_entropy(logits, targets).item(), rel=1e-5)
    expected = multiclass_calibration_error(logits.softmax(1), targets, 7, n_bins=15, norm="l1").item()
    assert found["calibration"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch", [1, 10, 96])
def test_any_split_into_batches_gives_the_same_digits(batch):
    assert scores(*made(), batch=batch) == scores(*made())


def test_ranks_are_added_up_before_anything_is_divided():
    logits, targets = made()
    ranks = [ClassificationScores(7), ClassificationScores(7)]
    ranks[0].update(logits[:60], targets[:60])
    ranks[1].update(logits[60:], targets[60:])
    together = ClassificationScores(7)
    for name, reduction in together._reductions.items():  # what torchmetrics does with the gathered states
        setattr(together, name, reduction(torch.stack([getattr(rank, name) for rank in ranks])))
    together._update_count = 1
    assert {name: value.item() for name, value in together.compute().items()} == scores(logits, targets)


def test_fewer_than_five_classes_have_all_of_them_among_the_first():
    assert scores(*made(classes=3))["top5"] == 1.0


def test_equal_logits_do_not_count_as_right_but_for_the_first_class():
    logits, targets = torch.zeros(10, 10), torch.arange(10)
    found = scores(logits, targets)
    assert found["accuracy"] == pytest.approx(0.1) and found["top5"] == pytest.approx(0.5)
    assert found["worst_class"] == 0.0


def test_nan_logits_are_wrong_and_show_in_the_loss():
    logits, targets = torch.full((4, 3), float("nan")), torch.zeros(4, dtype=torch.long)
    found = scores(logits, targets)
    assert found["accuracy"] == 0.0 and math.isnan(found["loss"])
    logits, targets = made()
    logits[5] = float("nan")
    assert math.isnan(scores(logits, targets)["loss"])
    assert scores(logits, targets)["accuracy"] > 0.3


def test_a_class_that_does_not_occur_is_not_the_worst():
    logits = torch.eye(4)[:2]
    assert scores(logits, torch.tensor([0, 1]))["worst_class"] == 1.0


def test_without_samples_every_score_is_nan():
    with pytest.warns(UserWarning, match="before"):
        assert all(math.isnan(value) for value in ClassificationScores(3).compute().values())


def test_huge_losses_do_not_overflow():
    logits = torch.tensor([[1e30, 0.0]]).repeat(1000, 1)
    found = scores(logits, torch.ones(1000, dtype=torch.long))
    assert found["loss"] == pytest.approx(1e6)
