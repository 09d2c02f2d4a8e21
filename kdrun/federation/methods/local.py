"""Every client alone: the control that all others are compared with."""

from __future__ import annotations

from kdrun.federation.client import Client
from kdrun.federation.loop import label_loss
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method

SEMANTICS = 1


class Local(Method):
    """The private network learns from labels in as many steps as both directions of other methods together."""

    terms = ("private_labels",)

    def work(self, client: Client, broadcast: Broadcast):
        return {}, learn_private(client, self.options.epochs, broadcast.round)


def learn_private(client: Client, epochs: int, round: int) -> dict[str, float]:
    """The private network learns from labels alone."""
    private, loop = client.private, client.loop

    def terms(batch):
        return [("private_labels", 1.0, label_loss(loop.logits(private, batch["inputs"]), batch["targets"]))]

    return loop.train({"private": private}, client.train, epochs, "private", round, terms)
