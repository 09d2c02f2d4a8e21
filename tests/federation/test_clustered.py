"""COSMOS, COMET and FedCT: their rounds written out, and whole federations of clients in groups."""

import copy

import numpy as np
import pytest
import torch

from kdrun.federation.messages import Broadcast, Update
from kdrun.federation.methods.base import ServerResources, build_method
from kdrun.federation.methods.clusters import CLUSTER, COLLAPSED
from kdrun.learning import seeds
from kdrun.problems import UserError

from .plays import CNN, mlp, play
from .test_methods import CLASSES, TRAINER, batches, descend, kl, label, linear, make, same, soft

GROUPED = {
    "clients": 4,
    "partition": {"kind": "groups", "alpha": 5.0, "minimum": 8, "groups": 2, "mixing": 0.1},
    "private": [mlp(32), CNN],
    "server": mlp(48),
}
LONG = {"public": 0.2, "backward_epochs": 5, "forward_epochs": 3, "server_epochs": 5}


def rows(seed=0, count=8):
    found = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), count).astype(np.float32)
    return found / found.sum(axis=1, keepdims=True)


def resources(clients=3, groups=None):
    client = make("clustered", public=True)
    loop = copy.deepcopy(client.loop)
    return ServerResources(None, client.public, loop, CLASSES, linear(CLASSES, 7), groups, clients)


def combine(method, held, updates, round=0, server=None):
    sent = {client: Update({"predictions": own}, 10) for client, own in updates.items()}
    return method.combine(held, sent, "fedavg", 0.1, round, server)


@pytest.mark.parametrize(("smooth", "temperature"), [(0.0, 1.0), (5.0, 0.5)])
def test_a_client_learns_from_its_cluster_then_from_labels_then_sends_predictions(smooth, temperature):
    client = make("clustered", {"smooth": smooth, "smooth_noise": 0.5, "temperature": temperature}, public=True)
    private, target = copy.deepcopy(client.private), rows()
    torch.manual_seed(seeds.derive(5, "digest", 2))
    for batch in batches(client, "digest", 2, 1, client.public):
        logits, total = private(batch["inputs"]), 0.0
        noisy = private(batch["inputs"] + 0.5 * torch.randn_like(batch["inputs"]))
        for f, away, place in zip(logits, noisy, batch["positions"].tolist(), strict=True):
            sharp = torch.from_numpy(target[place]) ** (1 / temperature)
            squares = (torch.softmax(f, 0) - torch.softmax(away, 0)).square().mean()
            total = total + kl(sharp / sharp.sum(), soft(f, 1.0)) + smooth * squares
        descend(private, total / len(logits))
    for batch in batches(client, "private", 2, 1):
        logits = private(batch["inputs"])
        descend(private, sum(map(label, logits, batch["targets"])) / len(logits))
    update = client.fit(Broadcast(2, {"predictions": target}))
    same(private, client.private.state_dict())
    inputs = next(client.public.whole(100))["inputs"]
    expected = torch.softmax(private(inputs), 1).detach().numpy()
    np.testing.assert_allclose(update.arrays["predictions"], expected, rtol=2e-4)
    assert set(update.arrays) == {"predictions"}


def test_smoothing_without_gradient_is_none():
    found = []
    for options in ({"smooth_grad": False}, {"smooth": 0.0}, {}):
        client = make("clustered", {"smooth_noise": 0.5, **options}, public=True)
        client.fit(Broadcast(1, {"predictions": rows()}))
        found.append(client.private.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_the_servers_network_learns_from_the_mean_of_its_cluster():
    server = resources()
    method = build_method("clustered", {"clustering": "one", "smooth": 0.0, "server_epochs": 2})
    network = copy.deepcopy(server.model)
    assert method.initial(server) == {}
    sent = [rows(seed) for seed in range(3)]
    held = combine(method, {}, dict(enumerate(sent)), 0, server)
    target = torch.from_numpy(np.mean(sent, axis=0))
    for epoch in range(2):
        for batch in server.public.batches(TRAINER["batch_size"], seeds.derive(5, "server-0", 0), epoch):
            logits = network(batch["inputs"])
            losses = [
                kl(target[place], soft(f, 1.0)) for f, place in zip(logits, batch["positions"].tolist(), strict=True)
            ]
            descend(network, sum(losses) / len(losses))
    same(network, {name.split("/")[1]: array for name, array in held.items() if name.startswith("server/")})
    with torch.no_grad():
        taught = torch.softmax(network(next(server.public.whole(100))["inputs"]), 1).numpy()
    for client in range(3):
        (array,) = method.sent(held, client).values()
        np.testing.assert_allclose(array, taught, rtol=2e-4)


@pytest.mark.parametrize("method", ["comet", "clustered"])
def test_one_cluster_is_fedmd_with_a_network_of_the_server_between(method):
    """The consensus of FedMD on the same numbers is what the server's network learns from, which then teaches; without one it teaches itself."""
    server, fedmd = resources(), build_method("fedmd", {})
    sent, samples = [rows(seed) for seed in range(3)], (5, 10, 40)  # both count clients alike
    numbered = list(enumerate(zip(sent, samples, strict=True)))
    updates = {client: Update({"logits": own}, count) for client, (own, count) in numbered}
    consensus = fedmd.combine(fedmd.initial(server), updates, "fedavg", 0.1, 0, server)["logits"]
    one = build_method(method, {"clustering": "one"} | ({"smooth": 0.0} if method == "clustered" else {}))
    one.initial(server)
    targets = []
    one.taught = lambda target, *rest, learned=one.taught: targets.append(target) or learned(target, *rest)
    network = copy.deepcopy(server.model)
    updates = {client: Update({"predictions": own}, count) for client, (own, count) in numbered}
    held = one.combine({}, updates, "fedavg", 0.1, 0, server)
    np.testing.assert_allclose(targets, [consensus], rtol=1e-6)
    teaches = consensus
    if method == "clustered":
        for epoch in range(one.options.server_epochs):
            for batch in server.public.batches(TRAINER["batch_size"], seeds.derive(5, "server-0", 0), epoch):
                said = torch.log_softmax(network(batch["inputs"]), 1)
                target = torch.from_numpy(consensus)[batch["positions"]]
                descend(network, (target * (target.log() - said)).sum(1).mean())
        with torch.no_grad():
            teaches = torch.softmax(network(next(server.public.whole(100))["inputs"]), 1).numpy()
        assert not np.allclose(teaches, consensus, atol=1e-2)  # a network of its own is between
    for client in range(3):
        np.testing.assert_allclose(one.sent(held, client)["predictions"], teaches, rtol=2e-4)


def test_members_of_a_cluster_are_sent_its_predictions_alone():
    server = resources()
    method = build_method("clustered", {"clustering": "greedy", "threshold": 0.1})
    method.initial(server)
    one, other = rows(1), rows(2)
    held = combine(method, {}, {0: one, 1: other, 2: one}, 0, server)
    assert held[CLUSTER].tolist() == [[0, 1, 0]] and method.said(held) == {"clusters": 2.0, "collapsed": 0.0}
    sent = [method.sent(held, client)["predictions"] for client in range(3)]
    assert np.array_equal(sent[0], sent[2]) and not np.array_equal(sent[0], sent[1])


def test_a_late_client_joins_the_nearest_cluster_and_clusters_stay():
    server = resources()
    method = build_method("comet", {"clustering": "greedy", "threshold": 0.1})
    method.initial(server)
    one, other = rows(1), rows(2)
    held = combine(method, {}, {0: one, 2: other}, 0, server)
    assert held[CLUSTER][-1].tolist() == [0, -1, 1] and method.sent(held, 1) == {}
    held = combine(method, held, {0: other, 1: other}, 1, server)  # client 0 has changed, and 2 does not answer
    assert held[CLUSTER][-1].tolist() == [0, 1, 1]
    np.testing.assert_allclose(method.sent(held, 2)["predictions"], other, rtol=1e-6)
    # Where nobody of a cluster answers, what it was sent stays.
    held = combine(method, held, {0: one}, 2, server)
    np.testing.assert_allclose(method.sent(held, 1)["predictions"], other, rtol=1e-6)


def test_clusters_can_be_made_anew_and_go_on_from_what_most_members_had():
    server = resources(clients=4)
    method = build_method("clustered", {"clustering": "greedy", "threshold": 0.1, "recluster": True})
    method.initial(server)
    one, other, third = rows(1), rows(2), rows(3)
    held = combine(method, {}, {0: one, 1: other, 2: other, 3: other}, 0, server)
    held = combine(method, held, {0: one, 1: third, 2: other}, 1, server)
    assert held[CLUSTER].tolist() == [
        [0, 1, 1, 1],
        [0, 1, 2, 1],
    ]  # 3 is absent and goes where the first of its own went
    assert {name.rpartition("/")[2] for name in held if "/" in name} == {"0", "1", "2"}


def test_a_client_that_names_one_class_is_told_of():
    server = resources()
    method = build_method("comet", {"clustering": "one"})
    method.initial(server)
    flat = np.tile(np.array([[0.5, 0.3, 0.2]], np.float32), (8, 1))
    held = combine(method, {}, {0: flat, 1: rows(1), 2: rows(2)}, 0, server)
    held = combine(method, held, {0: flat, 1: flat, 2: rows(2)}, 1, server)
    assert held[COLLAPSED].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert method.outcome(held, server)["clusters"]["collapsed"] == {"0": 2, "1": 1}


def test_what_clusters_do_not_go_with_is_said():
    with pytest.raises(UserError, match="needs one"):
        build_method("clustered", {"clustering": "greedy"})
    with pytest.raises(UserError, match="no other has any"):
        build_method("clustered", {"threshold": 0.5})
    with pytest.raises(UserError, match="numbers here"):
        build_method("clustered", {}, True).suits(True)
    with pytest.raises(UserError, match="there are 3 classes"):
        build_method("clustered", {"encoding": "top_k", "top_k": 4}).suits(False, 3)


def test_comet_is_drawn_to_the_mean_by_squares():
    client = make("comet", {"weight": 2.0}, public=True)
    private, target = copy.deepcopy(client.private), rows()
    for batch in batches(client, "digest", 1, 1, client.public):
        logits, total = private(batch["inputs"]), 0.0
        for f, place in zip(logits, batch["positions"].tolist(), strict=True):
            total = total + 2.0 * sum((torch.softmax(f, 0)[c] - float(target[place, c])) ** 2 for c in range(CLASSES))
        descend(private, total / len(logits))
    for batch in batches(client, "private", 1, 1):
        logits = private(batch["inputs"])
        descend(private, sum(map(label, logits, batch["targets"])) / len(logits))
    client.fit(Broadcast(1, {"predictions": target}))
    same(private, client.private.state_dict())


def test_fedct_learns_the_class_that_most_name():
    client = make("fedct", {}, public=True)
    method, server = client.method, resources()
    method.initial(server)
    votes = [[0, 1, 2, 0, 1, 2, 0, 1], [0, 2, 2, 1, 1, 0, 2, 1], [2, 1, 0, 2, 0, 0, 1, 1]]
    updates = {client: Update({"labels": np.array(own, np.int16)}, 5) for client, own in enumerate(votes)}
    held = method.combine({}, updates, "fedavg", 0.1, 0, server)
    assert held["labels"].tolist() == [0, 1, 2, 0, 1, 0, 0, 1]  # of classes with as many votes the first
    private = copy.deepcopy(client.private)
    for batch in batches(client, "digest", 1, 1, client.public):
        logits = private(batch["inputs"])
        losses = [label(f, held["labels"][place]) for f, place in zip(logits, batch["positions"].tolist(), strict=True)]
        descend(private, sum(losses) / len(losses))
    for batch in batches(client, "private", 1, 1):
        logits = private(batch["inputs"])
        descend(private, sum(map(label, logits, batch["targets"])) / len(logits))
    client.fit(Broadcast(1, held))
    same(private, client.private.state_dict())
    assert (
        method.refusal(Update({"labels": np.full(8, 3, np.int16)}, 5), method.expected({}, server))
        == "its labels are of no class"
    )


def test_groups_of_digits_are_seen_and_told_of(tmp_path):
    found = play(tmp_path, "clustered", rounds=2, options=LONG, seed=1, **GROUPED)
    clusters = found["clusters"]
    assert clusters["groups"] == [0, 0, 1, 1] and clusters["counts"] == [clusters["count"]] * 2
    assert -0.5 <= clusters["agreement"] <= 1 and len(clusters["of"]) == 4
    assert found["rounds"][1]["metrics"]["clusters"] == clusters["count"]
    assert found["test"]["last"]["accuracy"] > 0.6
    per_round = clusters["message"]["float32"]
    assert found["bytes"]["up"] == pytest.approx(8 * per_round, rel=0.05)
    assert found["bytes"]["down"] == pytest.approx(
        4 * per_round, rel=0.05
    )  # in the first of two rounds nothing is sent
    assert {"server", "server_smooth", "digest", "digest_smooth", "private_labels"} == set(found["first_step"])


def test_known_clusters_agree_and_one_cluster_has_nothing_to_agree_with(tmp_path):
    known = play(tmp_path / "a", "clustered", rounds=2, options={**LONG, "clustering": "known"}, **GROUPED)
    assert known["clusters"]["of"] == [0, 0, 1, 1] and known["clusters"]["agreement"] == 1.0
    one = play(tmp_path / "b", "clustered", rounds=2, options={**LONG, "clustering": "one"}, **GROUPED)
    assert one["clusters"]["of"] == [0] * 4 and one["clusters"]["agreement"] == 0.0


def test_predictions_that_are_scaled_are_left_out(tmp_path):
    faults = {"scale": {"1": 5.0}, "drop": {"2": [0]}}
    found = play(tmp_path, "clustered", rounds=2, options=LONG, faults=faults, **GROUPED)
    assert [why for _, why in found["clients"][1]["left_out"]] == ["its predictions are no probabilities"] * 2
    assert found["clusters"]["of"][1] == -1 and found["clusters"]["of"][2] >= 0


@pytest.mark.parametrize("encoding", ["float16", "top_k"])
def test_fewer_bytes_travel_where_that_is_asked_for(encoding, tmp_path):
    found = play(tmp_path, "clustered", rounds=2, options={**LONG, "encoding": encoding}, **GROUPED)
    sizes = found["clusters"]["message"]
    assert found["bytes"]["up"] == pytest.approx(8 * sizes[encoding], rel=0.1)
    assert sizes["top_k"] < sizes["float16"] < sizes["float32"]
    assert found["test"]["last"]["accuracy"] > 0.6


def test_more_passes_in_round_0_alone(tmp_path):
    """In every method of predictions, and in the arm that is alone: as many steps as are counted by hand."""
    for method in ("comet", "fedmd", "fedct", "local"):
        client = make(method, {"first_epochs": 4, "backward_epochs": 1, "forward_epochs": 1}, public=True)
        client.fit(Broadcast(0))
        first = client.loop.counted["steps"]
        assert first == 4 * 3  # 12 samples in batches of 5, 5 and 2
        client.fit(Broadcast(1))  # nothing was sent: labels alone, or as many batches as the public samples have
        assert client.loop.counted["steps"] - first == (6 if method == "local" else 3)
