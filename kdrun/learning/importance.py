"""How much parameters matter for what a network has learned: the diagonal of the Fisher information (lab.stages.importance)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun.learning.outcome import of_no_training
from kdrun.learning.report import Interrupted, Report
from kdrun.learning.teaching import Workshop, moved
from kdrun.ledger.spending import TEACHER
from kdrun.networks.build import build_network
from kdrun.networks.modes import evaluating
from kdrun.networks.weights import load_state, load_weights, save_state
from kdrun.objectives.terms import build_objective

SEMANTICS = 1
IMPORTANCE = "importance.safetensors"


@dataclass(frozen=True)
class ImportanceRequest:
    """What is asked. network: node that builds it; weights: path of its weights; before: path of what earlier tasks left, or None."""

    label: str
    work: Path
    network: dict[str, Any]
    weights: str
    data: dict[str, Any]
    objective: dict[str, Any]
    samples: int
    hardware: dict[str, Any]
    before: str | None = None
    energy: dict[str, Any] | None = None


def run_importance(request: ImportanceRequest, report: Report, workshop: Workshop) -> dict[str, Any]:
    """The outcome, in JSON types; the work folder has IMPORTANCE: for each parameter the mean of squared gradients, with what earlier
    tasks left added."""
    with workshop.open_ledger(request.work, request.hardware, request.energy) as ledger:
        ledger.energy.enter(TEACHER)
        module = workshop.data(request.data)
        task = module.task()
        network = build_network(request.network, module.spec, 0).to(torch.device(request.hardware["device"]))
        load_weights(network, request.weights, module.spec)
        fisher, count = fisher_diagonal(
            network, module, task, build_objective(request.objective), request.samples, report
        )
        if request.before is not None:
            before = load_state(request.before)
            fisher = {name: values + before[name] for name, values in fisher.items()}
        save_state(fisher, request.work / IMPORTANCE)
        return {**of_no_training(task, network, ledger, count), "importance": {"samples": count}}


def fisher_diagonal(
    network: torch.nn.Module, module: Any, task: Any, objective: Any, samples: int, report: Report | None = None
) -> tuple[dict[str, Tensor], int]:
    """(parameter name -> mean over samples of the squared derivative of the loss of one sample, how many samples), on CPU.

    The loss is that of the label (the empirical Fisher information). Samples are taken from the training split at equal distances. The
    network is in eval mode; its gradients are left as they were. Parameters that are not trained are left out.
    """
    named = {name: one for name, one in network.named_parameters() if one.requires_grad}
    device = next(iter(named.values())).device
    total = {name: torch.zeros_like(one) for name, one in named.items()}
    loader = module.eval_loader("train", batch_size=1)
    every, count = max(len(loader) // samples, 1), 0
    if report is not None:
        report.stage("importance of parameters", min(samples, len(loader)), 0, unit="sample")
    with evaluating(network):
        for number, batch in enumerate(loader):
            if number % every or count == samples:
                continue
            batch = moved(batch, device)
            tensors = task.tensors(batch, task.predict(network, batch["inputs"]), None)
            value, _ = objective(tensors, task.count(batch))
            found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
            for (name, _), gradient in zip(named.items(), found, strict=True):
                if gradient is not None:
                    total[name] += gradient.detach().square()
            count += 1
            if report is not None:
                report.advance(count)
                if report.stop_requested():
                    raise Interrupted
    return {name: (values / max(count, 1)).cpu() for name, values in total.items()}, count
