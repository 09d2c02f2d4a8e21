"""Accuracy of each step, wrong steps and firing rates against counts in Python, in records and in tables."""

import pytest
import torch
from torch import nn

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.domains.scores import StepScores
from kdrun.networks.resnet import ResNet
from kdrun.networks.spiking import Spiking
from kdrun.report.added import added_metrics


def batches(steps=11, layers=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    for size in (5, 2):
        targets = torch.randint(4, (size,), generator=draw)
        yield targets, torch.randn(size, steps, 4, generator=draw), torch.rand(size, layers, generator=draw)


def test_scores_are_counts_over_all_batches():
    metric, rows, rates = StepScores(), [], []
    for targets, steps, firing in batches():
        metric.update(targets, steps, firing)
        rows += [
            [int(step.argmax()) == int(label) for step in sample] for sample, label in zip(steps, targets, strict=True)
        ]
        rates += firing.tolist()
    found = {name: float(value) for name, value in metric.compute().items()}
    for number in range(11):
        assert found[f"accuracy/step_{number + 1:02}"] == pytest.approx(sum(row[number] for row in rows) / 7)
    assert found["wrong_steps"] == pytest.approx(1 - sum(map(sum, rows)) / 77)
    for number in range(3):
        assert found[f"firing_rate/layer_{number + 1}"] == pytest.approx(
            sum(row[number] for row in rates) / 7, abs=1e-5
        )
    assert found["firing_rate"] == pytest.approx(sum(map(sum, rates)) / 21, abs=1e-5)


def test_a_network_with_steps_is_scored_and_another_has_no_more_scores_than_before():
    spec = DataSpec("made", tuple("abcd"), (1, 8, 8), {"train": 6, "val": 6, "test": 6}, (0.0,), (1.0,))
    task = Classification(spec)
    batch = {"inputs": torch.rand(6, 1, 8, 8), "targets": torch.arange(6) % 4, "ids": torch.arange(6)}
    inner = ResNet(8, 4, num_classes=4, in_channels=1, image_size=8)

    def scores(network: nn.Module) -> set[str]:
        metrics = task.collection()
        task.evaluate(metrics, network.eval(), batch)
        return set(metrics.compute())

    plain, spiking = scores(inner), scores(Spiking(inner, steps=2))
    assert spiking - plain == {
        *("accuracy/step_1", "accuracy/step_2", "wrong_steps", "firing_rate"),
        *(f"firing_rate/layer_{number}" for number in range(1, 8)),
    }
    assert plain < spiking and not any("step" in name for name in plain)


def test_records_are_shown_with_steps_and_layers_down():
    scores = {
        "accuracy": 0.5,
        "accuracy/step_1": 0.25,
        "wrong_steps": 0.5,
        "firing_rate": 0.1,
        "firing_rate/layer_1": 0.1,
    }
    stages = [{"role": "teacher", "test": {"last": {"accuracy": 0.9}}}]
    stages += [{"role": "student", "test": {"last": scores | {"wrong_steps": wrong}}} for wrong in (0.5, 0.7)]
    (table,) = added_metrics({"stages": stages, "summary": {"headline": {"which": "last"}}})
    assert table.head == ("", "student")
    assert ("accuracy (step 1)", "25.00") in table.rows and ("wrong steps", "60.00") in table.rows
    assert added_metrics({"stages": stages[:1], "summary": {"headline": {"which": "last"}}}) == []


def test_scores_of_the_kind_of_data_stand_beside_its_main_one():
    config = {"data": {"task": "text_classification"}}
    stages = [
        {"role": role, "test": {"last": {"accuracy": 0.9, "f1": f1, "mcc": 0.25, "f1/a": 0.1}}}
        for role, f1 in (("student", 0.5), ("student", 0.7), ("plain_kd", 0.4))
    ]
    (table,) = added_metrics(
        {"stages": stages, "config": config, "summary": {"headline": {"which": "last"}, "metric": "accuracy"}}
    )
    assert table.head == ("", "student", "plain kd")
    assert table.rows == [("macro F1, %", "60.00", "40.00"), ("MCC", "0.2500", "0.2500")]
    (table,) = added_metrics(
        {"stages": stages, "config": config, "summary": {"headline": {"which": "last"}, "metric": "f1"}}
    )
    assert table.rows[0] == ("accuracy, %", "90.00", "90.00")
