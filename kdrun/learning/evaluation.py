"""Measure the networks of a sequence of tasks on the test sets of all of them (lab.stages.evaluate)."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.learning import seeds
from kdrun.learning.learner import LearnerModule
from kdrun.learning.outcome import Metrics, Tests, cost_of, size_of
from kdrun.learning.report import Interrupted, Report
from kdrun.learning.resampling import write_samples
from kdrun.learning.teaching import Workshop
from kdrun.learning.trainer import make_trainer
from kdrun.ledger.ledger import phase_flops, training_flops
from kdrun.ledger.spending import EVALUATE
from kdrun.networks.build import build_network
from kdrun.networks.weights import load_weights
from kdrun.objectives.terms import build_objective
from kdrun.schema import OWN_WEIGHTS
from kdrun.score_matrix import AVERAGE, transfer_of

SEMANTICS = 1

BEFORE = "before"
"""The row of the network as it was before the first task."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked.

    learner  {"name", "network", "weights"}; seed: of the random weights that it began with
    after    name of a task -> path of the weights after it, in the order of learning
    tasks    name of a task -> its data config
    trainer  of the last task, for the batch size and how sequences are generated
    """

    label: str
    work: Path
    learner: dict[str, Any]
    seed: int
    after: dict[str, str]
    tasks: dict[str, dict[str, Any]]
    hardware: dict[str, Any]
    trainer: dict[str, Any]
    metrics: dict[str, Any]
    energy: dict[str, Any] | None = None


def run_evaluation(request: EvaluationRequest, report: Report, workshop: Workshop) -> dict[str, Any]:
    """The outcome, in JSON types. "matrix": {"rows", "columns", "metrics": {metric: A}}; "tasks": the parts of the result.

    The main metric of "test" is the average after the last task, beside it stand the scores of score_matrix.transfer_of. Raises
    Interrupted between two networks; what was measured is then measured again.
    """
    rows = [BEFORE, *request.after]
    with workshop.open_ledger(request.work, request.hardware, request.energy) as ledger:
        ledger.energy.enter(EVALUATE)
        report.stage(request.label, len(rows) * len(request.tasks), 0, unit="test set")
        figures: dict[str, dict[str, Metrics]] = {}  # task -> row -> metrics on its test set
        validation: dict[str, Metrics] = {}
        samples: list[dict[str, Any]] = []
        seen = 0
        for name, data in request.tasks.items():
            module = workshop.data(data)
            task = module.task(request.trainer.get("decoding"), request.metrics)
            figures[name] = {}
            for number, row in enumerate(rows):
                if report.stop_requested():
                    raise Interrupted
                learner, network = _learner(request, module, task, request.after.get(row))
                batches = {"batch_size": request.trainer["eval_batch_size"], "rank": 0, "world": 1}
                trainer = make_trainer({**request.hardware, "devices": 1, "nodes": 1}, callbacks=[], max_epochs=0)
                figures[name][row] = Tests(trainer, learner, module, batches, None)()["test"]
                seen += module.spec.sizes["test"]
                if number == len(rows) - 1:
                    samples += learner.samples or []
                    trainer.validate(learner, module.eval_loader("val", **batches), verbose=False)
                    validation[name] = learner.evaluated
                    seen += module.spec.sizes["val"]
                report.advance((len(figures) - 1) * len(rows) + number + 1)
        size = size_of(network, task)
        if len({row["id"] for row in samples}) == len(samples) > 0:  # else samples of two tasks could not be told apart
            write_samples(request.work, "test", sorted(samples, key=lambda row: row["id"]))
        first, *others = (by_row[BEFORE] for by_row in figures.values())
        names = [name for name in first if all(name in other for other in others)]  # scores of single types are of some
        matrices = {metric: [[figures[j][t][metric] for j in figures] for t in rows] for metric in names}
        return {
            "monitor": task.MAIN,
            **_figures(matrices, validation, task),
            "further": {},
            "history": [],
            "first_step": None,
            "matrix": {"rows": rows, "columns": list(figures), "metrics": matrices},
            "tasks": [
                {
                    "name": name,
                    "val": {"best": validation[name], "last": validation[name]},
                    "test": {which: figures[name][rows[-1]] for which in ("best", "last")},
                }
                for name in figures
            ],
            "cost": cost_of(
                ledger,
                phase_flops(size["flops"], 0, seen, None, 0, 0),
                steps=0,
                samples=0,
                flops=training_flops(size["flops"], 0, None, 0),
            ),
            **size,
        }


def _learner(request: EvaluationRequest, module: Any, task: Any, weights: str | None) -> tuple[LearnerModule, Any]:
    """A network with these weights, or as it was before it learned anything; and how it is evaluated."""
    network = build_network(request.learner["network"], module.spec, seeds.derive(request.seed, "weights"))
    source = request.learner["weights"] if weights is None else weights
    if source not in (None, OWN_WEIGHTS):
        load_weights(network, source, module.spec)
    return LearnerModule(network, task, build_objective({"ce": {"weight": 1.0}})), network


def _figures(matrices: dict[str, list[list[float]]], validation: dict[str, Metrics], task: Any) -> dict[str, Any]:
    """ "val" and "test" of the outcome: means over tasks after the last one, and what the matrix of the main metric says beside."""
    test = {metric: statistics.fmean(matrix[-1]) for metric, matrix in matrices.items()}
    scores = transfer_of(matrices[task.MAIN], task.METRICS[task.MAIN])
    test |= {name: value for name, value in scores.items() if name != AVERAGE}
    first, *others = validation.values()
    shared = [name for name in first if all(name in other for other in others)]
    val = {name: statistics.fmean(values[name] for values in validation.values()) for name in shared}
    return {
        "val": {"best": val, "last": val, "epoch_best": None, "epochs": 0},
        "test": {"best": test, "last": test},
    }
