"""What an exported network says of the test set: its score there, and on corrupted inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kdrun.domains.task import Prediction
from kdrun.files import number, read_json
from kdrun.hardware.exports.artifact import Artifact
from kdrun.hardware.exports.subject import TrainedNetwork

CHUNK = 256
QUICK_SECONDS = 0.6
"""What corrupted inputs may take at the end of a run."""
FEWEST = 50
"""Samples with which a drop is worth telling."""
NOT_CORRUPTED = "inputs are not images or rows ({})"


@dataclass
class Judged:
    """An artifact with what it says.

    outputs   float32 [N, C] on test; targets [N], ids [N]. None where one output per sample is not what its task is about
    value     the main metric of `outputs`; torch_value: of the network it was made from
    robustness   scores by corruption, without the teacher's part
    notes     part of the card -> why it is None
    """

    subject: TrainedNetwork
    artifact: Artifact
    outputs: np.ndarray | None = None
    targets: np.ndarray | None = None
    ids: np.ndarray | None = None
    value: float | None = None
    torch_value: float | None = None
    scores: dict[str, list[float]] | None = None
    clean: float | None = None
    samples: int = 0
    notes: dict[str, str] = field(default_factory=dict)


def judge(
    subject: TrainedNetwork, artifact: Artifact, session: Any, samples: int, quick: bool, seed: int = 0
) -> Judged:
    """Run the test set through `session`; samples: how many of it are corrupted at most, spread evenly over it."""
    found = Judged(subject, artifact, torch_value=torch_value(subject))
    if subject.spec.per_position:
        found.notes["robustness"] = NOT_CORRUPTED.format(subject.spec.kind)
        found.notes["safety"] = "there are no classes"
        if artifact.runtime == "torch" and artifact.precision == "fp32":
            found.value = found.torch_value  # the same operators on the same weights
        else:
            found.notes["quality"] = "generated text is scored with the torch network only"
        return found
    start = time.perf_counter()
    outputs, targets, ids, inputs = [], [], [], []
    network = subject.through(session)
    with torch.inference_mode():
        for _, batch in subject.batches("test", CHUNK):
            outputs.append(subject.task.predict(network, batch["inputs"]).logits.float().numpy())
            targets.append(batch["targets"]), ids.append(batch["ids"]), inputs.append(batch["inputs"])
    seconds = time.perf_counter() - start
    found.outputs, found.targets = np.concatenate(outputs), torch.cat(targets).numpy()
    found.ids = torch.cat(ids).numpy()
    found.value = score(subject, found.outputs, found.targets)
    if subject.spec.keywords:
        found.notes["robustness"] = NOT_CORRUPTED.format(subject.spec.kind)
        return found
    if quick:
        samples = min(samples, int(QUICK_SECONDS / (20 * seconds / len(found.ids))))
        if samples < min(FEWEST, len(found.ids)):
            found.notes["robustness"] = "left out at the end of a run, it takes longer than a second: kdrun card"
            return found
    rows = np.linspace(0, len(found.ids) - 1, min(samples, len(found.ids))).round().astype(int)
    own = found.targets[rows]
    scored = lambda values: score(subject, values, own)  # noqa: E731
    chosen, spec, predict = torch.cat(inputs).numpy()[rows], subject.spec, predictor(subject, session)
    corrupted = spec.corrupted(chosen, found.ids[rows], seed)
    if not corrupted:
        found.notes["robustness"] = NOT_CORRUPTED.format(spec.kind)
        return found
    found.scores = {name: [scored(predict(level())) for level in levels] for name, levels in corrupted.items()}
    found.clean, found.samples = scored(found.outputs[rows]), len(rows)
    return found


def predictor(subject: TrainedNetwork, session: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Normalised inputs [n, ...] -> outputs float32 [n, C], in chunks, read as the task reads a network's output."""
    network = subject.through(session)

    def predict(inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pieces = [
                subject.task.predict(network, torch.from_numpy(inputs[start : start + CHUNK])).logits
                for start in range(0, len(inputs), CHUNK)
            ]
        return torch.cat(pieces).float().numpy()

    return predict


def score(subject: TrainedNetwork, outputs: np.ndarray, targets: np.ndarray) -> float:
    """The task's main metric."""
    metrics = subject.task.metrics()
    batch = {"targets": torch.from_numpy(targets)}
    subject.task.update(metrics, Prediction(torch.from_numpy(outputs)), batch)
    return float(metrics.compute()[subject.task.MAIN])


def torch_value(subject: TrainedNetwork) -> float | None:
    """The main metric of the network itself on test: as its stage recorded it, else computed (a client of a federation)."""
    if subject.part is None:
        try:
            recorded = read_json(subject.stage / "record.json")["test"][subject.which]
        except (OSError, ValueError, KeyError, TypeError):
            recorded = {}
        found = number((recorded or {}).get(subject.task.MAIN))
        if found is not None:
            return float(found)
    if subject.spec.per_position:
        return None
    outputs, targets = [], []
    with torch.inference_mode():
        for _, batch in subject.batches("test", CHUNK):
            outputs.append(subject.task.predict(subject.network, batch["inputs"]).logits)
            targets.append(batch["targets"])
    return score(subject, torch.cat(outputs).float().numpy(), torch.cat(targets).numpy())
