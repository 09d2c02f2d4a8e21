"""Every message of every method, looked at: nothing of a client but what the method says it sends."""

import json

import numpy as np
import pytest
import torch

from kdrun.federation.assemble import assemble
from kdrun.federation.messages import Broadcast, Update
from kdrun.federation.methods.options import METHODS
from kdrun.federation.run import FederationRun
from kdrun.ledger.ledger import Ledger

from .plays import CNN, Silent, mlp, request, workshop

# The private networks have a layer of the proxy's shape, so that a mix-up would not show by its shape alone.
MIXED = {"private": [mlp(8), CNN, mlp(8, 8)], "proxy": mlp(8), "shared": mlp(8), "clients": 3, "rounds": 3}


class Tapped:
    """An engine that keeps a copy of all that passes, and at each time what must not: private weights as they are."""

    def __init__(self, engine):
        self.engine, self.clients = engine, engine.clients
        self.down: list[tuple[int, Broadcast]] = []
        self.up: list[tuple[int, Update]] = []
        self.metrics: list[dict] = []
        self.secrets: list[np.ndarray] = []

    def fit(self, broadcasts):
        for number, broadcast in broadcasts.items():
            self.down.append((number, Broadcast(broadcast.round, {k: v.copy() for k, v in broadcast.arrays.items()})))
        self.note()
        for number, answer in self.engine.fit(broadcasts):
            self.up.append(
                (number, Update({k: v.copy() for k, v in answer.arrays.items()}, answer.samples, answer.metrics))
            )
            self.note()
            yield number, answer

    def evaluate(self, clients, split, arrays=None, best=False):
        found = self.engine.evaluate(clients, split, arrays, best)
        self.metrics += found.values()
        return found

    def note(self):
        for client in self.clients:
            if client.private is not None:
                self.secrets += [tensor.numpy().copy() for tensor in client.private.state_dict().values()]

    def __getattr__(self, name):
        return getattr(self.engine, name)


@pytest.mark.parametrize("method", METHODS)
def test_messages_hold_what_the_method_sends_and_nothing_else(method, tmp_path):
    federation = assemble(request(tmp_path, method, **MIXED), workshop(tmp_path / "cache"))
    tap = Tapped(federation.engine)
    federation.engine = federation.server.engine = tap
    play = FederationRun(request(tmp_path, method, **MIXED), Silent(), federation, Ledger([]))
    play.rounds()
    outcome = play.finish()

    assert len(tap.down) == len(tap.up) == 9
    messages = [message for _, message in (*tap.down, *tap.up)]
    arrays = [(name, array) for message in messages for name, array in message.arrays.items()]
    assert all(type(message) in (Broadcast, Update) for message in messages)
    check_form(method, federation, messages)

    samples = {tuple(shard.targets.tolist()) for client in federation.clients for shard in client.shards.values()}
    secrets = {array.tobytes() for array in tap.secrets if array.size > 1}
    inputs = {
        row.numpy().tobytes()
        for client in federation.clients
        for shard in client.shards.values()
        for batch in shard.whole(1000)
        for row in batch["inputs"].flatten(1)
    }
    assert (len(secrets) > 0) == (federation.method.JUDGED == "private")
    for name, array in arrays:
        # A batch-norm buffer or a bias that has just begun is the same everywhere; all others are somebody's own.
        if len(np.unique(array)) > 1:
            assert array.tobytes() not in secrets, name
        assert tuple(array.ravel().tolist()) not in samples, name
        for row in array.reshape(len(array), -1) if array.ndim else ():
            assert row.astype(np.float32).tobytes() not in inputs, name

    for metrics in (*(update.metrics for _, update in tap.up), *tap.metrics):
        assert all(isinstance(name, str) and type(value) is float for name, value in metrics.items())
        assert len(metrics) < 10
    for number, update in tap.up:
        assert update.samples == len(federation.clients[number].train)
    text = json.dumps(outcome)
    assert "ids" not in text and "targets" not in text


def check_form(method, federation, messages):
    """Names and shapes: of the proxy or the shared network, of predictions on public samples, or nothing."""
    network = federation.server.resources.network
    for message in messages:
        shapes = {name: tuple(array.shape) for name, array in message.arrays.items()}
        public = len(federation.server.resources.public or ())
        predicted = method in ("fedmd", "fedct", "comet", "clustered")
        if method == "local" or (predicted and isinstance(message, Broadcast) and message.round == 0):
            assert shapes == {}
        elif method in ("comet", "clustered"):
            assert shapes == {"predictions": (public, 10)}
        elif method == "fedct":
            assert shapes == {"labels": (public,)}
        elif method == "fedmd":
            assert shapes == {"logits": (public, 10)}
        else:
            assert shapes == {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_what_fedmd_sends_are_predictions_on_public_samples(tmp_path):
    federation = assemble(request(tmp_path, "fedmd", **MIXED), workshop(tmp_path / "cache"))
    client, public = federation.clients[0], federation.server.resources.public
    update = client.fit(Broadcast(0))
    inputs = next(public.whole(1000))["inputs"]
    with torch.no_grad():
        expected = client.private.eval()(inputs)
    np.testing.assert_array_equal(update.arrays["logits"], expected.numpy())


@pytest.mark.parametrize("method", ["fedmd", "feddf", "fedct", "comet", "clustered"])
def test_public_samples_have_no_labels_and_are_nobodys_own(method, tmp_path):
    federation = assemble(request(tmp_path, method, **MIXED), workshop(tmp_path / "cache"))
    public = federation.server.resources.public
    assert not public.targets.any()
    own = [set(client.train.ids.tolist()) for client in federation.clients]
    assert all(own) and not set(public.ids.tolist()) & set().union(*own)
    assert sum(map(len, own)) + len(public) == federation.module.spec.sizes["train"]
