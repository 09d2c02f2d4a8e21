"""How far a student is from who teaches it, before and after a stage: the capacity gap in numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from kdrun.learning.request import FitRequest
from kdrun.learning.teaching import live_teacher, moved
from kdrun.networks.modes import evaluating
from kdrun.problems import UserError

SAMPLES = 2048
"""Validation samples, and as many of training, that are looked at."""


class Gap:
    """Measures a student against its teachers at the beginning of a stage and, with `after`, at its end.

    Raises UserError for a table: one number is no distribution, and has no divergence from another.
    request: of the stage. seen: the data as the teachers see them, where that is otherwise. The network's mode is put back.
    """

    def __init__(self, request: FitRequest, network: nn.Module, module, task, seen=None):
        if not module.spec.distribution:
            raise UserError("trainer.gap: a divergence is one of distributions, which a regression does not give")
        self.request, self.module, self.task = request, module, task
        self.seen = module if seen is None else seen
        self.device = torch.device(request.hardware["device"])
        self.before = self._divergence(network)

    def after(self, network: nn.Module) -> dict[str, Any]:
        """{"kl_before", "kl_after": mean KL(teacher || student) in nats per valid position of validation, a mean over the
        teachers; "train", "val": {metric: value} of what one forward pass tells on equally many samples of each}."""
        splits = {split: self._scores(network, split) for split in ("train", "val")}
        return {"kl_before": self.before, "kl_after": self._divergence(network), **splits}

    @torch.no_grad()
    def _divergence(self, network: nn.Module) -> float:
        found = []
        for teacher in self.request.teachers:
            frozen = live_teacher(teacher, self.seen, self.task, self.device)
            total, positions = 0.0, 0
            shown = self.seen.eval_loader("val", self.module.preflight_batch)
            for batch, other in zip(self._batches(network, "val"), shown, strict=False):  # ours may stop earlier
                ours = self._log_probs(self.task.predict(network, batch["inputs"]), batch)
                theirs = self._log_probs(frozen.outputs(moved(other, self.device)), batch)
                p = theirs.exp()
                total += float(torch.where(p == 0, 0.0, p * (theirs - ours)).sum())
                positions += len(ours)
            found.append(total / positions if positions else math.nan)
        return sum(found) / len(found)

    @staticmethod
    def _log_probs(prediction, batch) -> torch.Tensor:
        logits = prediction.dense()
        mask = batch.get("mask")
        return torch.log_softmax((logits if mask is None else logits[mask]).float(), -1)

    @torch.no_grad()
    def _scores(self, network: nn.Module, split: str) -> dict[str, float]:
        metrics = self.task.metrics().to(self.device)
        for batch in self._batches(network, split):
            self.task.update(metrics, self.task.predict(network, batch["inputs"]), batch)
        values = {name: float(value) for name, value in metrics.compute().items()}
        return {name: value for name, value in values.items() if value == value}

    def _batches(self, network: nn.Module, split: str):
        network.to(self.device)
        seen = 0
        with evaluating(network):
            for batch in self.module.eval_loader(split, self.module.preflight_batch):
                yield moved(batch, self.device)
                seen += self.task.size(batch["inputs"])
                if seen >= SAMPLES:
                    return
