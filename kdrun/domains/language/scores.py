"""Scores of a language model over documents: sums over tokens, so that neither batches nor their order change a digit."""

from __future__ import annotations

import math

import numpy as np
import torch
from torchmetrics import Metric

UNIT, LARGEST_LOSS = 2.0**-20, 1e4
LARGEST_EXPONENT = 80.0
"""Of a perplexity; a loss beyond it is of a network that has learned nothing."""

SCORES = {
    "bits_per_byte": lambda nats, tokens, right, size: nats / math.log(2) / size,
    "loss": lambda nats, tokens, right, size: nats / tokens,
    "perplexity": lambda nats, tokens, right, size: np.exp(np.minimum(nats / tokens, LARGEST_EXPONENT)),
    "token_accuracy": lambda nats, tokens, right, size: right / tokens,
}
"""Each from sums over documents: nats of cross-entropy, tokens that were predicted, those that were the likeliest, bytes of UTF-8."""


class LanguageScores(Metric):
    """SCORES over all batches and ranks; NaN before any token, and as soon as one token's loss is not finite.

    update(losses float32 [N] in nats, right bool [N], of the N tokens that count; bytes that they stand for). Losses are summed as
    whole multiples of 2^-20.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("losses", "broken", "seen", "right", "bytes"):
            self.add_state(name, default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: torch.Tensor, right: torch.Tensor, size: int) -> None:
        self.losses += rounded(losses).sum()
        self.broken += (~losses.isfinite()).sum()
        self.right += right.sum()
        self.seen += len(losses)
        self.bytes += size

    def compute(self) -> dict[str, torch.Tensor]:
        seen, size = (float(count) if count > 0 else math.nan for count in (self.seen, self.bytes))
        nats = math.nan if self.broken > 0 else float(self.losses) * UNIT
        scores = {name: score(nats, seen, float(self.right), size) for name, score in SCORES.items()}
        return {name: torch.tensor(float(value), device=self.losses.device) for name, value in scores.items()}


def rounded(losses: torch.Tensor) -> torch.Tensor:
    """int64 [N]: losses as multiples of UNIT; what is not finite counts nothing."""
    return (torch.where(losses.isfinite(), losses, 0.0).clamp(max=LARGEST_LOSS).double() / UNIT).round().long()
