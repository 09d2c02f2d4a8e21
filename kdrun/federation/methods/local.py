"""Every client alone: the control that all others are compared with."""

from __future__ import annotations

from kdrun.federation.client import Client
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.objectives.terms import Objective

SEMANTICS = 1


class Local(Method):
    """The private network learns from labels in as many steps as both directions of other methods together."""

    def objectives(self):
        return (self.losses.objective("private"),)

    def work(self, client: Client, broadcast: Broadcast):
        return {}, learn_private(client, self.losses.objective("private"), self.options.epochs, broadcast.round)


def learn_private(client: Client, objective: Objective, epochs: int, round: int) -> dict[str, float]:
    """The private network learns from labels alone."""
    return client.loop.train({"private": client.private}, objective, client.train, epochs, "private", round)
