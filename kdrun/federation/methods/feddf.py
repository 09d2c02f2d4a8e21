"""FedAvg whose average then learns from the clients' networks together on public samples: FedDF."""

from __future__ import annotations

import torch

from kdrun.federation import aggregate
from kdrun.federation.loop import Stored, export, load
from kdrun.federation.methods.losses import named
from kdrun.federation.methods.shared import FedAvg
from kdrun.objectives.terms import Objective

SEMANTICS = 1


class FedDF(FedAvg):
    """Lin et al. 2020 (arXiv 2006.07242), algorithm 1, for networks of one kind: the server starts from the average of the
    clients' networks and minimises KL(softmax(mean of their logits) || softmax(its own)) on unlabelled public samples.

    It takes the trainer's optimizer and batch size; the paper has Adam and stops by validation.
    """

    @property
    def fusion(self) -> Objective:
        return Objective(named(self.losses.teaching, "fusion"))

    def objectives(self):
        return (*super().objectives(), self.fusion)

    def combine(self, arrays, updates, how, trim, round, resources):
        network, loop, public = resources.network, resources.loop, resources.public
        total = None
        for client in sorted(updates):
            load(network, updates[client].arrays)
            logits = loop.table("shared", network, public)
            total = logits if total is None else total + logits
        ensemble = total / len(updates)
        # A class that any of the clients excludes (logit -inf) is excluded; rows must be distributions (or numbers) all the same.
        numbers = public.targets.is_floating_point()
        usable = ensemble.isfinite().all() if numbers else not torch.log_softmax(ensemble, -1).isnan().any()
        average = aggregate.combine(updates, how, trim)
        load(network, average)
        if usable:
            try:
                loop.train(
                    {"shared": network},
                    self.fusion,
                    public,
                    self.options.distil_epochs,
                    "fusion",
                    round,
                    teacher=Stored(ensemble),
                )
            except FloatingPointError:
                return average  # a client that scales its weights must not end the run
        else:
            return average
        return export(network)
