"""What tasks share whose samples one forward pass tells everything of: images and rows of tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchmetrics import MetricCollection

from kdrun.domains.base import Batch
from kdrun.ledger.flops import counted_flops


class SinglePass:
    """Its subclasses have `spec`, `predict` and `update` (see base.Task)."""

    spec: Any

    def count(self, batch: Batch) -> int:
        """Samples in the batch."""
        return len(batch["targets"])

    def evaluate(
        self, metrics: MetricCollection, network: nn.Module, batch: Batch, final: bool = False
    ) -> list[dict[str, Any]] | None:
        """One forward pass says everything."""
        self.update(metrics, self.predict(network, batch["inputs"]), batch)

    def baselines(self) -> dict[str, dict[str, float]]:
        """None is shown: guessing is what `trivial` says."""
        return {}

    def notes(self) -> dict[str, str]:
        """Nothing to add."""
        return {}

    def size(self, inputs: torch.Tensor) -> int:
        """Samples in the batch."""
        return len(inputs)

    def typical(self, network: nn.Module) -> object:
        """One sample."""
        return network(torch.empty((1, *self.spec.shape), device="meta"))

    def flops(self, network: nn.Module) -> int | None:
        """FLOPs of it."""
        return counted_flops(network, self.typical)
