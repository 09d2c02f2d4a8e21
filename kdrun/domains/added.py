"""Metrics that a config adds to those of a task: `metrics.NAME: {_target_, mode, options ...}`, checked before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torchmetrics import Metric, MetricCollection

from kdrun import targets
from kdrun.problems import UserError

DIRECTIONS = {True: "max", False: "min"}


def add_metrics(task: Any, nodes: Mapping[str, Mapping[str, Any]]) -> Any:
    """The task with these metrics, each one number of the predictions and targets that `Task.judged` gives.

    Raises UserError for a name that the task has, for what is no torchmetrics.Metric, does not take what the task gives, or does
    not say whether more is better.
    """
    if not nodes:
        return task
    added, directions = {}, {}
    for name, node in nodes.items():
        where = f"metrics.{name}"
        if name in task.METRICS:
            raise UserError(f"{where}: the task has a metric of this name", f"give it another: metrics.my_{name}")
        added[name] = _built(where, node, task)
        mode = node.get("mode") or DIRECTIONS.get(added[name].higher_is_better)
        if mode is None:
            raise UserError(
                f"{where}: {node['_target_']} does not say whether more is better", f"add {where}.mode=max, or min"
            )
        directions[name] = mode
    task.METRICS = {**task.METRICS, **directions}
    task.added = added
    return task


def _built(where: str, node: Mapping[str, Any], task: Any) -> Metric:
    spec = task.spec
    classes = spec.vocabulary if spec.per_position else spec.outputs
    supplied = {"num_classes": classes, "num_labels": classes, "task": "multiclass"} if spec.distribution else {}
    options = {key: value for key, value in node.items() if key != "mode"}
    try:
        metric = targets.build(options, "metric", **supplied)
        if not isinstance(metric, Metric):
            raise UserError(
                f"{where}: {node['_target_']} gave a {type(metric).__name__}, expected a torchmetrics.Metric"
            )
        trial = copy.deepcopy(metric)
        trial.update(*task.example())
        value = trial.compute()
    except UserError:
        raise
    except Exception as error:  # whatever a metric raises on what it was not made for
        first = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{where}: {node['_target_']} cannot judge this task: {type(error).__name__}: {first}"
        ) from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(
            f"{where}: {node['_target_']} gives {shape}, expected one number", f"perhaps {where}.average=macro"
        )
    return metric


def collection(task: Any) -> MetricCollection:
    """The task's metrics and those that were added."""
    metrics = task.metrics()
    if task.added:
        metrics.add_metrics({name: copy.deepcopy(metric) for name, metric in task.added.items()})
    return metrics


def update_added(task: Any, metrics: MetricCollection, prediction: Any, batch: Mapping[str, Any]) -> None:
    """Adds one batch to the metrics that were added."""
    here = [name for name in task.added if name in metrics]
    if here and len((judged := task.judged(prediction, batch))[1]):
        for name in here:
            metrics[name].update(*judged)
