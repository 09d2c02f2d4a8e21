"""Only predictions on public samples travel: FedMD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdrun.federation import aggregate
from kdrun.federation.client import Client
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.digest import Digest
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective

SEMANTICS = 1

LOGITS = "logits"


class FedMD(Digest):
    """Li and Wang 2019 (arXiv 1910.03581), algorithm 1: clients send their class scores on public samples, the server
    averages them, and clients approach this consensus (digest) before they learn from their own samples (revisit).

    The distance to the consensus is the mean absolute difference of logits, as in the authors' published code; the text names
    none. Public samples have no labels here, so that the first phase of the paper on public labels is left out: in round 0
    clients only learn from their own samples. All public samples are used in every round; clients count alike.
    forward_epochs are passes of the digest over public samples, backward_epochs of the revisit over a client's own.
    """

    @property
    def digest(self) -> Objective:
        what = self.losses.outputs
        return Objective((Term("digest", 1.0, absolute, (f"student_{what}", f"teacher_{what}")),))

    def initial(self, resources):
        return {}

    def expected(self, arrays, resources):
        return {LOGITS: ((len(resources.public), resources.width), np.dtype(np.float32))}

    def combine(self, arrays, updates, how, trim, round, resources):
        alike = {client: replace(update, samples=1) for client, update in updates.items()}
        return aggregate.combine(alike, how, trim)

    def target(self, client: Client, broadcast: Broadcast):
        logits = broadcast.arrays.get(LOGITS)
        return None if logits is None else torch.from_numpy(np.array(logits))

    def answer(self, client: Client):
        return {LOGITS: client.loop.table("private", client.private, client.public).cpu().numpy()}


def absolute(**outputs: Tensor) -> Tensor:
    """[B]: mean absolute difference of what two networks say, [B, C] each."""
    ours, consensus = outputs.values()
    return (ours - consensus).abs().mean(-1)
