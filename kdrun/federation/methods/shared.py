"""One shared network: FedAvg, and FedProx, which holds clients near it."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun.federation.client import Client
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective

SEMANTICS = 1


class FedAvg(Method):
    """McMahan et al. 2017 (arXiv 1602.05629), algorithm 1: clients train the shared network, the server averages it."""

    JUDGED = "shared"
    TRAVELS = "shared"

    def objectives(self):
        return (self.losses.objective("shared"),)

    def work(self, client: Client, broadcast: Broadcast):
        network = client.receive(broadcast)
        values = client.loop.train(
            {"shared": network}, self.local(network), client.train, self.options.epochs, "shared", broadcast.round
        )
        return client.send(), values

    def local(self, network: nn.Module) -> Objective:
        """What a client minimises, from a network as the server sent it."""
        return self.losses.objective("shared")


class FedProx(FedAvg):
    """Li et al. 2020 (arXiv 1812.06127), equation 2: the loss of a client has mu / 2 ||w - w_global||^2 beside its own."""

    def objectives(self):
        return (self.local(nn.Module()),)

    def local(self, network):
        labels = self.losses.objective("shared").terms
        return Objective((*labels, Term("proximal", self.options.mu / 2, proximal(network), ("targets",))))


def proximal(network: nn.Module):
    """A term whose value is ||w - w_global||^2 at each position, w_global being the weights as they are now."""
    start = [(parameter, parameter.detach().clone()) for parameter in network.parameters()]

    def distance(targets: Tensor) -> Tensor:
        return sum((parameter - before).square().sum() for parameter, before in start).expand(len(targets))

    distance.starts_at_zero = True  # until the network has moved
    return distance
