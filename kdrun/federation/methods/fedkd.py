"""Mutual distillation that is weaker the worse both networks are: FedKD."""

from __future__ import annotations

from kdrun.federation.client import Client
from kdrun.federation.loop import label_loss, transfer
from kdrun.federation.messages import Broadcast
from kdrun.federation.methods.base import Method

SEMANTICS = 1


class FedKD(Method):
    """Wu et al. 2021 (arXiv 2108.13323): the private network (mentor) and the proxy (mentee) learn in the same step,

        L_f = L_task(f) + KL(g || f) / (L_task(f) + L_task(g)),   L_g = L_task(g) + KL(f || g) / (L_task(f) + L_task(g)),

    each with the other's outputs and the divisor as constants. The proxy travels. What the paper adds is left out: the losses
    on hidden states, which networks of different kinds do not share, and the compression of gradients.
    A step trains both networks, so that a round has as many passes as the longer of the two directions.
    """

    TRAVELS = "proxy"
    terms = ("private_labels", "proxy_labels", "to_private", "to_proxy")

    def work(self, client: Client, broadcast: Broadcast):
        proxy, private, loop = client.receive(broadcast), client.private, client.loop
        temperature = self.options.temperature

        def terms(batch):
            inputs, targets = batch["inputs"], batch["targets"]
            mentor, mentee = loop.logits(private, inputs), loop.logits(proxy, inputs)
            labels = label_loss(mentor, targets), label_loss(mentee, targets)
            divisor = (labels[0] + labels[1]).detach()
            return [
                ("private_labels", 1.0, labels[0]),
                ("proxy_labels", 1.0, labels[1]),
                ("to_private", 1.0, transfer(mentor, mentee.detach(), targets, temperature).mean() / divisor),
                ("to_proxy", 1.0, transfer(mentee, mentor.detach(), targets, temperature).mean() / divisor),
            ]

        networks = {"private": private, "proxy": proxy}
        epochs = max(self.options.backward_epochs, self.options.forward_epochs)
        found = loop.train(networks, client.train, epochs, "mutual", broadcast.round, terms)
        return client.send(), found
