"""Measures the pairs of student and teacher of a finished run, one for each seed, on the CPU."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdrun.config.allowed import agreed
from kdrun.diagnostics import numbers
from kdrun.diagnostics.kept import TEACHER, Diagnosis
from kdrun.hardware.exports.subject import TrainedNetwork
from kdrun.hardware.exports.subjects import open_subject, stages_of
from kdrun.networks.capture import captured, only_call
from kdrun.problems import UserError
from kdrun.records import arms_of
from kdrun.records import stages_of as seeds_of
from kdrun.slots import allowing
from kdrun.tracking.registry import RunInfo

SAMPLES = 4096
"""Most samples of test, and of training, that are looked at: spread evenly over the split."""
OF_SHARPNESS = 512
"""Most training samples whose loss is followed around the weights."""
BATCH = 512
SETTINGS = {
    "version": 1,
    "samples": SAMPLES,
    "of_sharpness": OF_SHARPNESS,
    "draws": numbers.DRAWS,
    "share": numbers.SHARE,
    "largest_loss": numbers.LARGEST_LOSS,
}


@dataclass(frozen=True)
class Measured:
    """What is measured of one network alone, or of several teachers at once. logits, targets, ids: of its test samples; training: the same
    of its training samples; figures: as kept.py says."""

    logits: Tensor
    targets: Tensor
    ids: Tensor
    training: tuple[Tensor, Tensor, Tensor]
    figures: dict[str, Any]


Known = dict[tuple[str, ...], Measured]
"""(fingerprint of the stage, file of the weights) -> what was measured: rows of a table share teachers."""


def diagnose(
    run: RunInfo,
    arm: str,
    teacher: str,
    seed: int | None = None,
    which: str | None = None,
    known: Known | None = None,
    kept: Diagnosis | None = None,
) -> Diagnosis:
    """The diagnosis of a run, see kept.py.

    seed: that one alone; which: epoch of both networks, default as the run is judged. kept: an earlier one, which is taken where it is of the same
    stages and settings. UserError for networks that give no distribution over classes, that have several parts, or that were tested
    on different samples.
    """
    known = {} if known is None else known
    seeds = [seed] if seed is not None else list(seeds_of(run.known_record(), arm))
    chosen = {each: _networks(run, arm, teacher, each, which) for each in seeds}
    wanted = [
        [each, *(name for side in pair for name in (_fingerprint(side), side[0]["which"]))]
        for each, pair in chosen.items()
    ]
    if kept is not None and kept.get("settings") == SETTINGS and _identity(kept) == (arm, teacher, wanted):
        return kept
    modules: dict[str, Any] = {}
    pairs, members = [], []
    with allowing(*agreed(run.dir.resolve().parent.parent)):
        for each, (student, taught_by) in chosen.items():
            both = [_together([_measured(run, one, modules, known) for one in side]) for side in (student, taught_by)]
            pairs.append(_pair(run, each, *both))
            members.append(both)
    return {
        "run": run.id,
        "arm": arm,
        "teacher": teacher,
        "settings": SETTINGS,
        "pairs": pairs,
        "ensemble": _ensemble(members),
    }


def _identity(kept: Diagnosis) -> tuple[Any, ...]:
    pairs = [
        [pair["seed"], *(pair[who][name] for who in ("student", "teacher") for name in ("fingerprint", "which"))]
        for pair in kept["pairs"]
    ]
    return kept["arm"], kept["teacher"], pairs


def _networks(
    run: RunInfo, arm: str, teacher: str, seed: int, which: str | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The entries of `stages_of` of a student, and of its teachers: where nobody names another, all that taught it at once."""
    student, first = (_stage(run, role, seed, which) for role in (arm, teacher))
    if teacher != TEACHER:
        return [student], [first]
    taught, record = student["stage"].get("teacher") or {}, run.known_record()
    by = [one["fingerprint"] for one in (taught, *(taught.get("also") or ())) if one.get("fingerprint")]
    stages = {stage["fingerprint"]: stage for stage in record["stages"]}
    own, results = first["stage"]["fingerprint"], {"alone", *arms_of(record)} - {arm}
    for name in by:
        role = stages[name]["role"] if name in stages else None
        another = role in (None, *results) or name == student["stage"]["fingerprint"]
        if name != own and (another or (role == teacher and own not in by)):
            where = f"names as {stages[name]['label']}" if role else "lacks"
            raise UserError(
                f"{run.id} has no {teacher} of seed {seed}: its record {where} the network that taught {arm}",
                f"to have it again: kdrun rerun {run.id}; another seed: kdrun diagnose {run.id} seed=N",
            )
    further = [stage for name, stage in stages.items() if own in by and name in by and name != own]
    return [student], [first, *(_stage(run, stage["role"], stage["seed"], which) for stage in further)]


def _fingerprint(networks: list[dict[str, Any]]) -> str:
    return "+".join(one["stage"]["fingerprint"] for one in networks)


def _together(networks: list[Measured]) -> Measured:
    """Of several, the mean of their probabilities, which a divergence to each of them amounts to: sharpness is their mean, features are
    those of none."""
    first, *others = networks
    if not others:
        return first
    if any(
        not torch.equal(one.ids, first.ids) or not torch.equal(one.training[2], first.training[2]) for one in others
    ):
        raise UserError(
            "teachers that taught at once were trained or tested on different samples", "name one: teacher=ROLE"
        )

    def mixed(logits: list[Tensor]) -> Tensor:
        return torch.stack([each.double().log_softmax(1) for each in logits]).logsumexp(0) - math.log(len(logits))

    test, training = mixed([one.logits for one in networks]), mixed([one.training[0] for one in networks])
    sharpness = [one.figures["sharpness"] for one in networks]
    figures = {
        **first.figures,
        "fingerprint": "+".join(one.figures["fingerprint"] for one in networks),
        **numbers.gap(numbers.losses(training, first.training[1]), numbers.losses(test, first.targets)),
        "sharpness": {name: statistics.fmean(one[name] for one in sharpness) for name in sharpness[0]},
        "features": None,
        "networks": len(networks),
    }
    return replace(first, logits=test, training=(training, *first.training[1:]), figures=figures)


def _stage(run: RunInfo, role: str, seed: int, which: str | None) -> dict[str, Any]:
    """The entry of `stages_of` of the one network that a role is."""
    found = stages_of(run, [seed], [role], which, lambda line: None)
    if len(found) > 1:
        raise UserError(
            f"{role} of {run.id} is {len(found)} networks, and a pair is one student and one teacher",
            "name another arm=NAME or teacher=ROLE",
        )
    return found[0]


def _measured(run: RunInfo, chosen: dict[str, Any], modules: dict[str, Any], known: Known) -> Measured:
    key = (chosen["stage"]["fingerprint"], chosen["file"])
    if key not in known:
        known[key] = _measure(open_subject(run, chosen, modules, unchanged=True))
    return known[key]


def _measure(subject: TrainedNetwork) -> Measured:
    spec = subject.spec
    if not spec.distribution or spec.per_position:
        what = "one number for each sample" if not spec.distribution else "an output for each token"
        raise UserError(
            f"{subject.label} of {subject.source['run']} gives {what}; kdrun diagnose is of classifiers, which give a distribution for "
            "each sample"
        )
    logits, targets, ids, features = _outputs(subject, "test")
    on_training, labels, trained, _ = _outputs(subject, "train")
    risks = numbers.gap(numbers.losses(on_training, labels), numbers.losses(logits, targets))
    figures = {
        "fingerprint": subject.source["fingerprint"],
        "which": subject.which,
        **risks,
        "samples": len(labels),
        "sharpness": _sharpness(subject),
        "features": None if features is None else numbers.rank(features),
    }
    return Measured(logits, targets, ids, (on_training, labels, trained), figures)


def _places(subject: TrainedNetwork, split: str, most: int) -> np.ndarray:
    """int64: places of samples with a label, spread evenly over a split."""
    samples = subject.module.samples(split)
    places = subject.task.usable(samples)
    if split == "train" and samples.labelled is not None:
        places = places[samples.labelled.numpy()[places]]
    if not len(places):
        raise UserError(f"{subject.label} of {subject.source['run']} has no labelled samples in {split}")
    return places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(np.int64))]


def _batches(subject: TrainedNetwork, split: str, most: int) -> Iterator[dict[str, Any]]:
    places = _places(subject, split, most)
    for first in range(0, len(places), BATCH):
        yield subject.batch(split, places[first : first + BATCH])[1]


@torch.no_grad()
def _outputs(subject: TrainedNetwork, split: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(logits [N, C], targets [N], ids [N], features [N, D]); features are None where it is not known what they are."""
    logits, targets, ids, features = [], [], [], []
    for batch in _batches(subject, split, SAMPLES):
        try:
            with captured(subject.network) as calls:
                prediction = subject.task.predict(subject.network, batch["inputs"])
            features.append(only_call(subject.network, calls))
        except UserError:  # no last linear layer, or it is called several times
            prediction = subject.task.predict(subject.network, batch["inputs"])
        logits.append(prediction.dense().float())
        targets.append(batch["targets"])
        ids.append(torch.as_tensor(batch["ids"]))
    whole = torch.cat(features) if len(features) == len(logits) else None
    return torch.cat(logits), torch.cat(targets), torch.cat(ids), whole


def _sharpness(subject: TrainedNetwork) -> dict[str, float]:
    batches = list(_batches(subject, "train", OF_SHARPNESS))
    count = sum(len(batch["targets"]) for batch in batches)

    def loss() -> Tensor:
        predicted = ((subject.task.predict(subject.network, batch["inputs"]), batch["targets"]) for batch in batches)
        return sum(functional.cross_entropy(p.dense().float(), y, reduction="sum") for p, y in predicted) / count

    return numbers.sharpness(subject.network, loss)


def _pair(run: RunInfo, seed: int, student: Measured, teacher: Measured) -> dict[str, Any]:
    if not torch.equal(student.ids, teacher.ids):
        raise UserError(f"student and teacher of {run.id}, seed {seed}, were not tested on the same samples")
    if student.logits.shape != teacher.logits.shape:
        shapes = " and ".join(str(each.logits.shape[1]) for each in (student, teacher))
        raise UserError(f"student and teacher of {run.id}, seed {seed}, name {shapes} classes")
    k_hat = numbers.divergence(student.logits, teacher.logits)
    return {
        "seed": seed,
        "samples": len(student.targets),
        "k_hat": k_hat,
        "k_reverse": numbers.divergence(teacher.logits, student.logits),
        "agreement": numbers.agreement(student.logits, teacher.logits, student.targets),
        **numbers.reconstructed_bound(teacher.figures, student.figures, k_hat),
        "student": student.figures,
        "teacher": teacher.figures,
    }


def _ensemble(members: list[list[Measured]]) -> dict[str, Any]:
    """Bias and variance over seeds, of students and of teachers."""
    found: dict[str, Any] = {}
    for who, networks in zip(("student", "teacher"), zip(*members, strict=True), strict=True):
        distinct = list({one.figures["fingerprint"]: one for one in networks}.values())
        if any(not torch.equal(one.ids, distinct[0].ids) for one in distinct):
            return {"why": "test samples differ by seed (seeds.vary=[student,teacher])"}
        if len(distinct) > 1:
            found[who] = numbers.bias_and_variance([one.logits for one in distinct], distinct[0].targets)
    return found or {"why": "one network of each kind, and several seeds are an ensemble"}
