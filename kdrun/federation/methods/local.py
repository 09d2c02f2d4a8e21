"""Every client alone: the control that all others are compared with."""

from __future__ import annotations

import math

from kdrun.federation.client import Client
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.objectives.terms import Objective

SEMANTICS = 1


class Local(Method):
    """The private network learns from labels in as many steps as both directions of other methods together.

    Where other methods have public samples, which are withheld from this one too, it passes over its own until it has had as many
    batches as forward_epochs over those have, but in round 0, in which there is nothing to learn of them.
    """

    def objectives(self):
        return (self.losses.objective("private"),)

    def work(self, client: Client, broadcast: Broadcast):
        epochs, round = self.options.label_epochs(broadcast.round), broadcast.round
        forward = self.options.forward_epochs
        if client.public is None:
            epochs += forward
        elif round > 0:
            size = client.loop.trainer["batch_size"]
            theirs, own = len(client.public.bounds(size)), len(client.train.bounds(size))
            epochs += math.ceil(forward * theirs / own)
        return {}, learn_private(client, self.losses.objective("private"), epochs, round)


def learn_private(client: Client, objective: Objective, epochs: int, round: int) -> dict[str, float]:
    """The private network learns from labels alone."""
    return client.loop.train({"private": client.private}, objective, client.train, epochs, "private", round)
