"""What methods share whose clients learn from predictions of others on public samples, then from their own labels."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from kdrun.federation.client import Client
from kdrun.federation.loop import Stored
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.federation.methods.local import learn_private
from kdrun.objectives.terms import Objective

SEMANTICS = 1


class Digest(Method):
    """A client's round: it learns from what it is sent (forward_epochs over public samples), then from labels (backward_epochs over its own),
    then says what it makes of public samples. In round 0 nothing is sent to it: it learns from labels alone."""

    TRAVELS = "predictions"

    def objectives(self):
        digest = (self.digest,) if self.options.forward_epochs else ()
        return (*digest, *((self.losses.objective("private"),) if self.options.backward_epochs else ()))

    @property
    def digest(self) -> Objective:
        """What clients minimise on public samples."""
        raise NotImplementedError

    def target(self, client: Client, broadcast: Broadcast) -> Tensor | None:
        """Logits [U, C] on public samples that a client learns from, of what it is sent; None where that is nothing."""
        raise NotImplementedError

    def answer(self, client: Client) -> dict[str, np.ndarray]:
        """What a client sends."""
        raise NotImplementedError

    def learn(self, client: Client, target: Tensor, round: int) -> dict[str, float]:
        """A client's passes over public samples."""
        loop, epochs = client.loop, self.options.forward_epochs
        teacher = Stored(target.to(loop.device))
        networks = {"private": client.private}
        return loop.train(networks, self.digest, client.public, epochs, "digest", round, teacher=teacher)

    def work(self, client: Client, broadcast: Broadcast):
        values: dict[str, float] = {}
        target = self.target(client, broadcast) if self.options.forward_epochs else None
        if target is not None:
            values |= self.learn(client, target, broadcast.round)
        epochs = self.options.label_epochs(broadcast.round)
        values |= learn_private(client, self.losses.objective("private"), epochs, broadcast.round)
        return self.answer(client), values
