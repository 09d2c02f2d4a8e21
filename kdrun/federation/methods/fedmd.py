"""Only predictions on public samples travel: FedMD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from kdrun.federation import aggregate
from kdrun.federation.client import Client
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.federation.methods.local import learn_private

SEMANTICS = 1

LOGITS = "logits"


class FedMD(Method):
    """Li and Wang 2019 (arXiv 1910.03581), algorithm 1: clients send their class scores on public samples, the server
    averages them, and clients approach this consensus (digest) before they learn from their own samples (revisit).

    The distance to the consensus is the mean absolute difference of logits, as in the authors' published code; the text names
    none. Public samples have no labels here, so that the first phase of the paper on public labels is left out: in round 0
    clients only learn from their own samples. All public samples are used in every round; clients count alike.
    forward_epochs are passes of the digest over public samples, backward_epochs of the revisit over a client's own.
    """

    TRAVELS = "predictions"

    @property
    def terms(self):
        return (
            *(("digest",) if self.options.forward_epochs else ()),
            *(("private_labels",) if self.options.backward_epochs else ()),
        )

    def initial(self, hall):
        return {}

    def expected(self, arrays, hall):
        return {LOGITS: ((len(hall.public), hall.width), np.dtype(np.float32))}

    def combine(self, arrays, updates, how, trim, round, hall):
        alike = {client: replace(update, samples=1) for client, update in updates.items()}
        return aggregate.combine(alike, how, trim)

    def work(self, client: Client, broadcast: Broadcast):
        private, loop, round = client.private, client.loop, broadcast.round
        found: dict[str, float] = {}
        if LOGITS in broadcast.arrays:
            consensus = torch.from_numpy(np.array(broadcast.arrays[LOGITS])).to(loop.device)

            def terms(batch):
                wanted = consensus.index_select(0, batch["positions"].to(loop.device))
                return [("digest", 1.0, (loop.logits(private, batch["inputs"]) - wanted).abs().mean())]

            epochs = self.options.forward_epochs
            found |= loop.train({"private": private}, client.public, epochs, "digest", round, terms)
        found |= learn_private(client, self.options.backward_epochs, round)
        return {LOGITS: loop.table("private", private, client.public).cpu().numpy()}, found
