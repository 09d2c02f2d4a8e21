"""FedAvg whose average then learns from the clients' networks together on public samples: FedDF."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kdrun.federation import aggregate
from kdrun.federation.loop import export, load, transfer
from kdrun.federation.methods.base import PublicOptions, at_least_zero
from kdrun.federation.methods.shared import FedAvg
from kdrun.problems import UserError


@dataclass(frozen=True)
class FusionOptions(PublicOptions):
    """distil_epochs: passes of the server over the public samples in a round; temperature of its distillation."""

    distil_epochs: int = 1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.distil_epochs, int) or self.distil_epochs < 1:
            raise UserError(f"distil_epochs={self.distil_epochs}: a whole number of at least 1")
        at_least_zero("temperature", self.temperature, above=True)


class FedDF(FedAvg):
    """Lin et al. 2020 (arXiv 2006.07242), algorithm 1, for networks of one kind: the server starts from the average of the
    clients' networks and minimises KL(softmax(mean of their logits) || softmax(its own)) on unlabelled public samples.

    It takes the trainer's optimizer and batch size; the paper has Adam and stops by validation.
    """

    Options = FusionOptions
    terms = ("shared_labels", "fusion")

    def combine(self, arrays, updates, how, trim, round, hall):
        network, loop, public = hall.network, hall.loop, hall.public
        total = None
        for client in sorted(updates):
            load(network, updates[client].arrays)
            logits = loop.table("shared", network, public)
            total = logits if total is None else total + logits
        ensemble = total / len(updates)
        average = aggregate.combine(updates, how, trim)
        load(network, average)

        def terms(batch):
            taught = ensemble.index_select(0, batch["positions"].to(loop.device))
            logits = loop.logits(network, batch["inputs"])
            return [("fusion", 1.0, transfer(logits, taught, batch["targets"], self.options.temperature).mean())]

        if torch.isfinite(ensemble).all():
            try:
                loop.train({"shared": network}, public, self.options.distil_epochs, "fusion", round, terms)
            except FloatingPointError:
                return average  # a client that scales its weights must not end the run
        else:
            return average
        return export(network)
