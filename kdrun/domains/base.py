"""What every task answers, so that the learner needs to know none of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn


@dataclass
class Prediction:
    """What one network says about one batch.

    logits: float [B, C], or [B, L, C] for sequences; None where hidden and head are given instead.
    mask: bool, the shape of logits without its last dimension, True where a position counts; None: all count.
    features: further tensors by name, for objectives that compare more than logits.
    hidden, head: float [B, L, D] and [C, D] (or a pair of that and a bias [C]) whose product the logits are, for
        vocabularies so large that losses compute them piece by piece.
    """

    logits: torch.Tensor | None
    mask: torch.Tensor | None = None
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    hidden: torch.Tensor | None = None
    head: Any = None

    def dense(self) -> torch.Tensor:
        """The logits, computed where only hidden and head are there."""
        if self.logits is not None:
            return self.logits
        weight, bias = self.head if isinstance(self.head, tuple) else (self.head, None)
        return torch.nn.functional.linear(self.hidden, weight, bias)


class Guess(float):
    """What a guess that looks at no input reaches by the PREFLIGHT metric, in float64.

    limit: what such a guess passes by chance in 1 of 40 cases, on as many samples; a network that does not pass it is no
    better than the guess. what: the guess in words.
    """

    def __new__(cls, value: float, limit: float, what: str = "a guess that looks at no input") -> Guess:
        guess = super().__new__(cls, value)
        guess.limit, guess.what = limit, what
        return guess


def largest_share(targets: list[torch.Tensor], what: str, right: list[torch.Tensor] | None = None) -> Guess:
    """The share of right answers of always naming the commonest value.

    right: bool, where a network is right on these targets. Then the limit is that of an exact McNemar test: only what one of
    the two has right and the other has not tells them apart. Without it, that of a binomial over as many samples.
    """
    from scipy.stats import binom

    flat = torch.cat(targets)
    counts = torch.bincount(flat)
    largest, seen = int(counts.max()), len(flat)
    if right is None:
        chance = float(binom.ppf(0.975, seen, largest / seen))
    else:
        unlike = int((torch.cat(right) != (flat == counts.argmax())).sum())
        chance = largest + 2 * float(binom.ppf(0.975, unlike, 0.5)) - unlike if unlike else largest
    # Half a sample more: a share is a multiple of 1 / seen, perhaps rounded to float32.
    return Guess(largest / seen, (chance + 0.5) / seen, what)


def symmetric(value: float, deviation: float, better: int) -> Guess:
    """A guess whose figure has a standard deviation by chance; better: 1 where larger is better, else -1."""
    return Guess(value, value + better * 1.96 * (0.0 if math.isnan(deviation) else deviation))


Batch = Mapping[str, Any]
Tensors = dict[str, torch.Tensor | None]


class Task(Protocol):
    """Forward pass, named tensors for the objective, and metrics of one kind of problem.

    METRICS: name of each metric -> "max" or "min", the direction in which it gets better. Names are the same for
    every stage and every network, and `loss` is always the plain supervised loss, so that runs can be compared.
    MAIN: the metric that summaries report, and that selects the best epoch where `trainer.monitor` says nothing.
    PREFLIGHT: the metric by which a teacher is measured before it teaches; cheap to compute.
    """

    METRICS: Mapping[str, str]
    MAIN: str
    PREFLIGHT: str

    def predict(self, network: nn.Module, inputs: Any) -> Prediction:
        """One forward pass; modes and gradients are the caller's business."""
        ...

    def prepare(self, wanted: frozenset[str]) -> None:
        """Optional. Told before training which tensors the objective can use."""
        ...

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """What objectives can ask for, by parameter name; None for what is not there."""
        ...

    def count(self, batch: Batch) -> int:
        """Valid positions in the batch: what a sum of per-position losses is divided by."""
        ...

    def metrics(self) -> Any:
        """A fresh torchmetrics MetricCollection with the names of METRICS."""
        ...

    def update(self, metrics: Any, prediction: Prediction, batch: Batch) -> None:
        """Adds one batch to the metrics, as far as one forward pass tells them."""
        ...

    def evaluate(
        self, metrics: Any, network: nn.Module, batch: Batch, final: bool = False
    ) -> list[dict[str, Any]] | None:
        """Adds one batch to all metrics; may ask the network for more than one forward pass (generation).

        final: on test, where generation may be more thorough than after every epoch. Then it may return one mapping of
        plain values for each sample, with its "id", which is kept beside the weights (see resampling.py).
        """
        ...

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores on test of what needs no network: {what it is: {metric: value}}."""
        ...

    def notes(self) -> dict[str, str]:
        """What else a reader of the scores must know, as the signature of sacreBLEU."""
        ...

    def size(self, inputs: Any) -> int:
        """Samples in `batch["inputs"]`."""
        ...

    def typical(self, network: nn.Module) -> object:
        """A forward pass of one sample of typical size through a network on the meta device."""
        ...

    def flops(self, network: nn.Module) -> int | None:
        """FLOPs of that pass; None where they cannot be counted."""
        ...

    def right(self, prediction: Prediction, batch: Batch) -> torch.Tensor:
        """Optional, for a PREFLIGHT metric that is a share: bool, where the prediction is right, at positions that count."""
        ...

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """The PREFLIGHT metric of a guess that looks at no input, on these batches' targets; right: of the same, of a network."""
        ...
