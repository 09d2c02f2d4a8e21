"""One shared network: FedAvg, and FedProx, which holds clients near it."""

from __future__ import annotations

from kdrun.federation.client import Client
from kdrun.federation.loop import label_loss
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method

SEMANTICS = 1


class FedAvg(Method):
    """McMahan et al. 2017 (arXiv 1602.05629), algorithm 1: clients train the shared network, the server averages it."""

    JUDGED = "shared"
    TRAVELS = "shared"
    terms = ("shared_labels",)

    def work(self, client: Client, broadcast: Broadcast):
        network, loop = client.receive(broadcast), client.loop

        def terms(batch):
            return [("shared_labels", 1.0, label_loss(loop.logits(network, batch["inputs"]), batch["targets"]))]

        found = loop.train({"shared": network}, client.train, self.options.epochs, "shared", broadcast.round, terms)
        return client.send(), found


class FedProx(FedAvg):
    """Li et al. 2020 (arXiv 1812.06127), equation 2: the loss of a client has mu / 2 ||w - w_global||^2 beside its own."""

    @property
    def terms(self):
        return ("shared_labels", *(("proximal",) if self.options.mu else ()))

    def work(self, client: Client, broadcast: Broadcast):
        network, loop, weight = client.receive(broadcast), client.loop, self.options.mu / 2
        sent = [(parameter, parameter.detach().clone()) for parameter in network.parameters()]

        def terms(batch):
            parts = [("shared_labels", 1.0, label_loss(loop.logits(network, batch["inputs"]), batch["targets"]))]
            if weight:
                distance = sum((parameter - start).square().sum() for parameter, start in sent)
                parts.append(("proximal", weight, distance))
            return parts

        found = loop.train({"shared": network}, client.train, self.options.epochs, "shared", broadcast.round, terms)
        return client.send(), found
