"""The scores of a classifier as one metric: sums over samples that any split over batches and ranks leaves equal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kdrun.auc import macro_auc, nine_digits

if TYPE_CHECKING:
    import numpy as np

# Losses and confidences are summed as whole multiples of this, because integer sums do not depend on their order:
# two processes report the same digits as one, and devices without float64 need no special case.
_UNIT = 2.0**-20
_LARGEST_LOSS = 1e6  # nats per sample; keeps 5e6 diverged samples inside of int64


class ClassificationScores(Metric):
    """Scores of one label per sample; state is six integer sums, added up over ranks.

    update(logits float32 [B, C], targets int64 [B]); compute() gives float32 scalars, NaN before any sample:
    accuracy: share of samples whose target has the largest logit, in 0..1; of equal logits the first class wins.
    top5: share whose target is among the k = min(5, C) largest.
    worst_class: lowest accuracy of any class that occurs.
    loss: mean cross-entropy in nats; NaN as soon as one sample's loss is not finite.
    calibration: expected calibration error in 0..1, 15 equal bins of the largest probability (Guo et al. 2017,
        arXiv 1706.04599, section 2).
    A sample with NaN logits is wrong, never right by accident.
    """

    full_state_update = False

    def __init__(self, classes: int, bins: int = 15) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        for name, length in (
            ("seen", classes), ("hits", classes), ("top_hits", 1), ("losses", 1), ("broken", 1),
            ("bin_hits", bins), ("bin_confidences", bins),
        ):  # fmt: skip
            self.add_state(name, default=torch.zeros(length, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        rank = rank_of_target(logits, targets)
        right = (rank < 1).to(torch.int64)
        self.seen.index_add_(0, targets, torch.ones_like(right))
        self.hits.index_add_(0, targets, right)
        self.top_hits += (rank < min(5, self.classes)).sum()

        losses = functional.cross_entropy(logits, targets, reduction="none")
        self.broken += (~losses.isfinite()).sum()
        self.losses += _whole(losses.nan_to_num(0.0).clamp(0.0, _LARGEST_LOSS)).sum()

        confidences = logits.softmax(1).amax(1).nan_to_num(0.0)
        bins = (confidences * self.bins).long().clamp(max=self.bins - 1)
        self.bin_hits.index_add_(0, bins, right)
        self.bin_confidences.index_add_(0, bins, _whole(confidences))

    def compute(self) -> dict[str, torch.Tensor]:
        samples = self.seen.sum().float()
        occurring = self.seen > 0
        per_class = torch.where(occurring, self.hits / self.seen, float("inf"))
        loss = self.losses.squeeze(0) * _UNIT / samples
        gaps = (self.bin_hits - self.bin_confidences * _UNIT).abs()
        return {
            "accuracy": self.hits.sum() / samples,
            "top5": self.top_hits.squeeze(0) / samples,
            "worst_class": torch.where(occurring.any(), per_class.min(), float("nan")),
            "loss": torch.where(self.broken.squeeze(0) > 0, float("nan"), loss),
            "calibration": gaps.sum() / samples,
        }


class RankedScores(ClassificationScores):
    """`auroc` beside ClassificationScores; state is also every logit and target, gathered over ranks.

    update(logits float32 [B, C], targets int64 [B]); compute() gives scalars, NaN before any sample:
    auroc: see auc.macro_auc, of `probabilities`, in float64; NaN where fewer than two classes occur or a logit is NaN.
    The order of samples does not matter, so batches and ranks change no digit.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        for name in ("every_logit", "every_target"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        super().update(logits, targets)
        self.every_logit.append(logits)
        self.every_target.append(targets)

    def compute(self) -> dict[str, torch.Tensor]:
        value = math.nan
        if len(self.every_logit):  # a tensor once ranks were gathered
            targets = dim_zero_cat(self.every_target).cpu().numpy()
            value = macro_auc(targets, probabilities(dim_zero_cat(self.every_logit)))
        return {"auroc": torch.tensor(value, dtype=torch.float64), **super().compute()}


class StepScores(Metric):
    """Scores of a network with an answer at every step; {} of one without. State is integer sums, added up over ranks.

    update(targets int64 [B], steps float [B, T, C], firing float [B, L]); steps and firing where the network has them.
    compute() gives shares in 0..1:
    accuracy/step_1 ...: of each step by itself, as ClassificationScores counts it.
    wrong_steps: share of all steps whose own answer is wrong, which are those that error-aware alignment corrects (arXiv 2605.14252).
    firing_rate, firing_rate/layer_1 ...: mean number of spikes of a neuron in a step: mean over layers, and of each layer.
    Steps and layers beyond MOST are not scored.
    """

    full_state_update = False
    MOST = 256

    def __init__(self) -> None:
        super().__init__()
        for name in ("step_seen", "step_hits", "layer_seen", "spikes"):
            self.add_state(name, default=torch.zeros(self.MOST, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, targets: torch.Tensor, steps: torch.Tensor | None = None, firing: torch.Tensor | None = None
    ) -> None:
        if steps is not None:
            for step, logits in enumerate(steps.detach().float().unbind(1)[: self.MOST]):
                self.step_hits[step] += (rank_of_target(logits, targets) < 1).sum()
                self.step_seen[step] += len(targets)
        if firing is not None:
            rates = _whole(firing.detach().float())[:, : self.MOST].sum(0)
            self.spikes[: len(rates)] += rates
            self.layer_seen[: len(rates)] += len(firing)

    def compute(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        steps, layers = self.step_seen > 0, self.layer_seen > 0
        if steps.any():
            accuracy = self.step_hits[steps] / self.step_seen[steps]
            found |= _numbered("accuracy/step_", accuracy)
            found["wrong_steps"] = 1 - self.step_hits.sum() / self.step_seen.sum()
        if layers.any():
            rates = self.spikes[layers] * _UNIT / self.layer_seen[layers]
            found |= {"firing_rate": rates.mean()}
            found |= _numbered("firing_rate/layer_", rates)
        return found


def _numbered(name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """`name01`, `name02` ...: as many digits as the last one has, so that names sort as they are numbered."""
    digits = len(str(len(values)))
    return {f"{name}{number:0{digits}}": value for number, value in enumerate(values, 1)}


def probabilities(logits: torch.Tensor) -> np.ndarray:
    """Softmax of logits [B, C] as numpy float64 [B, C], to nine significant digits: what is kept and what is judged."""
    return nine_digits(logits.detach().float().cpu().double().softmax(1).numpy())


def class_scores(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, float]:
    """`precision/LABEL`, `recall/LABEL`, `f1/LABEL` and `support/LABEL` (how many samples are of the class) of each class.

    rows: with "target" and "predicted", positions in `labels`. What has the denominator 0 (the recall of a class that does not
    occur, the precision of one that is never predicted) is left out; F1 is 2 hits / (samples of the class + predictions of it).
    """
    found: dict[str, float] = {}
    for place, label in enumerate(labels):
        support = sum(row["target"] == place for row in rows)
        predicted = sum(row["predicted"] == place for row in rows)
        hits = sum(row["target"] == row["predicted"] == place for row in rows)
        for name, over, under in (
            ("precision", hits, predicted),
            ("recall", hits, support),
            ("f1", 2 * hits, support + predicted),
        ):
            if under:
                found[f"{name}/{label}"] = over / under
        found[f"support/{label}"] = support
    return found


def rank_of_target(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """int64 [B]: place of the target among the logits, from 0; of equal logits the first class comes first."""
    own = logits.gather(1, targets[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    # "Not at most" and not "above", so that a NaN counts against the sample.
    return (~(logits <= own) | ((logits == own) & earlier)).sum(1)


def _whole(values: torch.Tensor) -> torch.Tensor:
    return (values / _UNIT).round().to(torch.int64)
