"""One round of each method against the same round written out: plain loops, formulas sample by sample."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.federation.client import Client
from kdrun.federation.loop import Loop, export
from kdrun.federation.messages import Broadcast, Update
from kdrun.federation.methods.base import ServerResources, build_method
from kdrun.federation.shards import Shard
from kdrun.learning import seeds
from kdrun.learning.firststep import NoEffect
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError

RATE, CLASSES, FEATURES = 0.1, 3, 4
TRAINER = {"batch_size": 5, "clip": None, "optimizer": {"_target_": "torch.optim.SGD", "lr": RATE}}


class Rows:
    """Samples of a data module: random images of one row."""

    def __init__(self, count, seed, regression=False):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.arange(count)
        self._inputs = torch.randn(count, 1, 1, FEATURES, generator=generator)
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        self.targets = torch.randn(count, generator=generator) if regression else labels

    def __len__(self):
        return len(self.ids)

    def inputs(self, positions, key=None):
        return self._inputs[positions]


class Numbers:
    """A task with one number per sample."""

    METRICS, MAIN = {"rmse": "min"}, "rmse"

    def metrics(self):
        from torchmetrics import MeanSquaredError, MetricCollection

        return MetricCollection({"rmse": MeanSquaredError(squared=False)})

    collection = metrics

    def predict(self, network, inputs):
        from kdrun.domains.task import Prediction

        return Prediction(network(inputs))

    def tensors(self, batch, student, teacher):
        return {
            "student_outputs": student.logits,
            "teacher_outputs": None if teacher is None else teacher.logits,
            "targets": batch["targets"],
        }

    def evaluate(self, metrics, network, batch, final=False):
        metrics.update(network(batch["inputs"]).squeeze(1), batch["targets"])


def linear(outputs, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, outputs))


def make(method, options=None, regression=False, public=False, private=None, objective=None, rounds=1, **trainer):
    spec = DataSpec("rows", ("a", "b", "c"), (1, 1, FEATURES), {}, (0.0,), (1.0,))
    task, outputs = (Numbers(), 1) if regression else (Classification(spec), CLASSES)
    chosen = build_method(method, options or {}, regression, objective)
    shards = {
        split: Shard(Rows(12, seed, regression), np.arange(12)) for seed, split in enumerate(("train", "val", "test"))
    }
    shared = chosen.JUDGED == "shared"
    common = Shard(Rows(8, 9), np.arange(8), targets=torch.zeros(8, dtype=torch.int64)) if public else None
    private = None if shared else private or linear(outputs, 1)
    proxy = linear(outputs, 2) if chosen.TRAVELS in ("proxy", "shared") else None
    loop = Loop(task, {**TRAINER, **trainer}, seed=5, rounds=rounds)
    return Client(0, shards, loop, chosen, private, proxy, common)


def batches(client, purpose, round, epochs, shard=None):
    """The same batches in the same order as the client has them."""
    seed = seeds.derive(5, purpose, round)
    for epoch in range(epochs):
        yield from (shard or client.train).batches(5, seed, epoch)


def descend(network, loss):
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter -= RATE * gradient


def soft(logits, temperature):
    powers = (logits / temperature).exp()
    return powers / powers.sum()


def kl(p, q):
    return sum(p[c] * (p[c] / q[c]).log() for c in range(CLASSES))


def entropy(p):
    return -sum(p[c] * p[c].log() for c in range(CLASSES))


def label(logits, target):
    return -soft(logits, 1.0)[target].log()


def trusts(private, proxy, options):
    """Gates of one batch, written out."""
    T = options.temperature
    energies = []
    for f, g in zip(private.detach(), proxy, strict=True):
        p, q = soft(f, T), soft(g, T)
        energies.append(float(0.5 * (kl(p, q) + kl(q, p)) / (entropy(p) + entropy(q) + 1e-8)))
    mean = sum(energies) / len(energies)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in energies) / len(energies))
    return [1 / (1 + math.exp(options.beta * (value - mean) / (deviation + 1e-8))) for value in energies]


def same(network, arrays):
    for name, tensor in network.state_dict().items():
        np.testing.assert_allclose(arrays[name], tensor.detach().numpy(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("order", ["backward_first", "forward_first"])
@pytest.mark.parametrize("directions", ["both", "forward", "backward"])
def test_energy_gated(order, directions):
    client = make("energy_gated", {"order": order, "directions": directions, "beta": 2.0, "temperature": 1.5})
    options, T = client.method.options, 1.5
    private, proxy, taught = (copy.deepcopy(one) for one in (client.private, client.proxy, client.proxy))

    def backward():
        for batch in batches(client, "private", 1, 1):
            logits, frozen = private(batch["inputs"]), taught(batch["inputs"]).detach()
            gates = trusts(logits, frozen, options) if directions != "forward" else [0.0] * len(logits)
            total = 0.0
            for f, g, target, gate in zip(logits, frozen, batch["targets"], gates, strict=True):
                total = total + label(f, target) + gate * T**2 * kl(soft(g, T), soft(f, T))
            descend(private, total / len(logits))

    def forward():
        for batch in batches(client, "proxy", 1, 1):
            logits, frozen = proxy(batch["inputs"]), private(batch["inputs"]).detach()
            weight = T**2 if directions != "backward" else 0.0
            total = 0.0
            for g, f, target in zip(logits, frozen, batch["targets"], strict=True):
                total = total + label(g, target) + weight * kl(soft(f, T), soft(g, T))
            descend(proxy, total / len(logits))

    for step in (backward, forward) if order == "backward_first" else (forward, backward):
        step()
    update = client.fit(Broadcast(1, export(client.proxy)))
    same(proxy, update.arrays)
    same(private, export(client.private))
    assert update.samples == 12
    assert ("gate_clean" in update.metrics) == (directions != "forward")


def test_the_first_round_teaches_nothing_backward():
    learns, skips = make("energy_gated"), make("energy_gated", {"first_round": "skip"})
    before = export(learns.private)
    sent = Broadcast(0, export(learns.proxy))
    assert "gated" not in learns.fit(sent).metrics and "gated" not in skips.fit(sent).metrics
    same(skips.private, before)
    assert any(not np.array_equal(before[name], array) for name, array in export(learns.private).items())


def test_regression_is_gated_by_squared_errors():
    client = make("energy_gated", {"backward_weight": 0.7, "forward_weight": 0.4}, regression=True)
    private, proxy, taught = (copy.deepcopy(one) for one in (client.private, client.proxy, client.proxy))
    for batch in batches(client, "private", 1, 1):
        own, frozen = private(batch["inputs"])[:, 0], taught(batch["inputs"])[:, 0].detach()
        energies = [(a - b) ** 2 for a, b in zip(own.tolist(), frozen.tolist(), strict=True)]
        mean = sum(energies) / len(energies)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in energies) / len(energies))
        gates = [1 / (1 + math.exp((value - mean) / (deviation + 1e-8))) for value in energies]
        parts = zip(own, frozen, batch["targets"], gates, strict=True)
        descend(private, sum((f - y) ** 2 + 0.7 * w * (f - g) ** 2 for f, g, y, w in parts) / len(own))
    for batch in batches(client, "proxy", 1, 1):
        own, frozen = proxy(batch["inputs"])[:, 0], private(batch["inputs"])[:, 0].detach()
        parts = zip(own, frozen, batch["targets"], strict=True)
        descend(proxy, sum((g - y) ** 2 + 0.4 * (g - f) ** 2 for g, f, y in parts) / len(own))
    update = client.fit(Broadcast(1, export(client.proxy)))
    same(proxy, update.arrays)
    same(private, export(client.private))
    with pytest.raises(UserError, match="use energy=squared_error"):
        build_method("energy_gated", {"energy": "entropy"}).suits(regression=True)


def test_gate_grad_changes_the_private_network_only_where_asked():
    found = []
    for gate_grad in (False, True):
        client = make("energy_gated", {"gate_grad": gate_grad, "temperature": 1.0})
        client.fit(Broadcast(1, export(client.proxy)))
        found.append(export(client.private)["1.weight"])
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_running_statistics_go_on_over_rounds():
    client = make("energy_gated", {"statistics": "running"})
    client.fit(Broadcast(1, export(client.proxy)))
    first = client.running.state_dict()
    client.fit(Broadcast(2, export(client.proxy)))
    assert first and client.running.state_dict() != first


def test_local_has_the_steps_of_both_directions():
    client = make("local", {"backward_epochs": 2, "forward_epochs": 1})
    private = copy.deepcopy(client.private)
    for batch in batches(client, "private", 4, 3):
        logits = private(batch["inputs"])
        descend(private, sum(map(label, logits, batch["targets"])) / len(logits))
    update = client.fit(Broadcast(4))
    assert update.arrays == {}
    same(private, export(client.private))


@pytest.mark.parametrize(("method", "mu"), [("fedavg", 0.0), ("fedprox", 0.5)])
def test_shared_networks(method, mu):
    client = make(method, {"mu": mu} if mu else {})
    network = copy.deepcopy(client.proxy)
    start = [parameter.detach().clone() for parameter in network.parameters()]
    for batch in batches(client, "shared", 0, 2):
        logits = network(batch["inputs"])
        away = sum(((p - s) ** 2).sum() for p, s in zip(network.parameters(), start, strict=True))
        descend(network, sum(map(label, logits, batch["targets"])) / len(logits) + mu / 2 * away)
    same(network, client.fit(Broadcast(0, export(client.proxy))).arrays)


def test_fedkd():
    client = make("fedkd", {"temperature": 1.0})
    private, proxy = copy.deepcopy(client.private), copy.deepcopy(client.proxy)
    for batch in batches(client, "mutual", 0, 1):
        mentor, mentee, targets = private(batch["inputs"]), proxy(batch["inputs"]), batch["targets"]
        losses = [sum(map(label, logits, targets)) / len(targets) for logits in (mentor, mentee)]
        divisor = sum(loss.item() for loss in losses)
        to_mentor = sum(kl(soft(g.detach(), 1), soft(f, 1)) for f, g in zip(mentor, mentee, strict=True)) / len(targets)
        to_mentee = sum(kl(soft(f.detach(), 1), soft(g, 1)) for f, g in zip(mentor, mentee, strict=True)) / len(targets)
        descend(private, losses[0] + to_mentor / divisor)
        descend(proxy, losses[1] + to_mentee / divisor)
    update = client.fit(Broadcast(0, export(client.proxy)))
    same(proxy, update.arrays)
    same(private, export(client.private))


def test_fedmd():
    client = make("fedmd", public=True)
    private = copy.deepcopy(client.private)
    consensus = np.random.default_rng(0).normal(size=(8, CLASSES)).astype(np.float32)
    for batch in batches(client, "digest", 3, 1, client.public):
        wanted = torch.from_numpy(consensus)[batch["positions"]]
        descend(private, (private(batch["inputs"]) - wanted).abs().sum() / (len(wanted) * CLASSES))
    for batch in batches(client, "private", 3, 1):
        logits = private(batch["inputs"])
        descend(private, sum(map(label, logits, batch["targets"])) / len(logits))
    update = client.fit(Broadcast(3, {"logits": consensus}))
    same(private, export(client.private))
    inputs = next(client.public.whole(8))["inputs"]
    np.testing.assert_allclose(update.arrays["logits"], private(inputs).detach().numpy(), rtol=2e-4, atol=2e-6)


def test_the_consensus_of_fedmd_counts_clients_alike():
    logits = [np.full((8, CLASSES), value, np.float32) for value in (0.0, 3.0)]
    updates = {client: Update({"logits": one}, 1 + 98 * client) for client, one in enumerate(logits)}
    found = build_method("fedmd", {}).combine({}, updates, "fedavg", 0.1, 0, None)
    np.testing.assert_array_equal(found["logits"], np.full((8, CLASSES), 1.5))


def test_feddf():
    client = make("feddf", {"temperature": 2.0, "distil_epochs": 2}, public=True)
    networks = [linear(CLASSES, seed) for seed in (3, 4)]
    resources = ServerResources(linear(CLASSES, 7), client.public, Loop(client.loop.task, TRAINER, seed=5), CLASSES)
    updates = {
        number: Update(export(one), samples)
        for number, (one, samples) in enumerate(zip(networks, (10, 30), strict=True))
    }
    fused = linear(CLASSES, 8)
    with torch.no_grad():
        for parameter, one, other in zip(fused.parameters(), *(n.parameters() for n in networks), strict=True):
            parameter.copy_(0.25 * one + 0.75 * other)
    for batch in batches(client, "fusion", 6, 2, client.public):
        taught = sum(one(batch["inputs"]).detach() for one in networks) / 2
        logits = fused(batch["inputs"])
        total = sum(4 * kl(soft(t, 2.0), soft(s, 2.0)) for t, s in zip(taught, logits, strict=True))
        descend(fused, total / len(logits))
    found = client.method.combine({}, updates, "fedavg", 0.1, 6, resources)
    same(fused, found)


def test_a_term_that_does_nothing_stops_the_run():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, inputs):
            return inputs.flatten(1)[:, :CLASSES] + 0 * self.weight

    client = make("local", private=Deaf())
    with pytest.raises(
        NoEffect, match=r"private_labels term is .* its gradient .* has the norm 0: it would do nothing"
    ):
        client.fit(Broadcast(0))


def test_a_client_that_diverges_is_as_it_was_before():
    client = make("energy_gated", {"statistics": "running"})
    before, sent = export(client.private), export(client.proxy)
    sent["1.weight"] = sent["1.weight"] * np.float32(np.inf)
    with pytest.raises(FloatingPointError):
        client.fit(Broadcast(1, sent))
    same(client.private, before)
    assert client.running.state_dict() == {} and client.gate_means()["gated"] is None


def test_a_value_of_zero_with_a_gradient_is_a_term_like_any_other():
    client = make("local")

    def centred(student_logits):
        values = student_logits.sum(-1)
        return values - values.detach()

    objective = Objective((Term("centred", 1.0, centred, ("student_logits",)),))
    client.loop.train({"private": client.private}, objective, client.train, 1, "private", 0)
    assert client.loop.seen["centred"]["value"] == 0.0 and client.loop.seen["centred"]["gradient"] > 0


def test_a_term_that_may_begin_with_nothing_is_looked_at_again():
    """The proximal term of FedProx is 0, and so is its gradient, until the network has moved."""
    client = make("fedprox", {"mu": 0.5})
    client.fit(Broadcast(0, export(client.proxy)))
    assert client.loop.seen["proximal"]["gradient"] > 0


@pytest.mark.parametrize("who", ["one client", "both"])
def test_feddf_distils_what_clients_do_not_exclude(who):
    """A client that excludes a class (logit -inf) excludes it for the ensemble; the fused network then learns from the rest."""

    class Masked(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.inner = linear(CLASSES, seed)
            self.register_buffer("offset", torch.zeros(CLASSES))

        def forward(self, inputs):
            return self.inner(inputs) + self.offset

    client = make("feddf", {"distil_epochs": 1}, public=True)
    networks = [Masked(3), Masked(4)]
    for network in networks if who == "both" else networks[:1]:
        network.offset[2] = -torch.inf
    resources = ServerResources(Masked(7), client.public, Loop(client.loop.task, TRAINER, seed=5), CLASSES)
    updates = {number: Update(export(one), 10) for number, one in enumerate(networks)}
    fused = Masked(8)
    with torch.no_grad():
        for tensor, one, other in zip(
            fused.state_dict().values(), *(n.state_dict().values() for n in networks), strict=True
        ):
            tensor.copy_((one + other) / 2)
    if who == "one client":  # the average of the offsets is -inf as well
        assert fused.offset[2] == -torch.inf
    for batch in batches(client, "fusion", 0, 1, client.public):
        taught = sum(one(batch["inputs"]).detach() for one in networks)[:, :2] / 2
        logits = fused(batch["inputs"])[:, :2]
        p, log_p, log_q = taught.softmax(-1), taught.log_softmax(-1), logits.log_softmax(-1)
        descend(fused, (p * (log_p - log_q)).sum() / len(logits))
    same(fused, client.method.combine({}, updates, "fedavg", 0.1, 0, resources))
    assert resources.loop.seen["fusion"]["gradient"] > 0


def test_frozen_batch_norm_of_a_client_keeps_its_statistics():
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 6), nn.BatchNorm1d(6)).requires_grad_(False)
    client = make("local", private=nn.Sequential(frozen, nn.BatchNorm1d(6), nn.Linear(6, CLASSES)))
    before = export(client.private)
    client.fit(Broadcast(0))
    after = export(client.private)
    assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("0."))
    assert not np.array_equal(before["1.running_mean"], after["1.running_mean"])


def test_an_objective_stands_in_place_of_the_losses_of_a_method():
    client = make("fedavg", objective={"ce": {"weight": 0.5, "label_smoothing": 0.3}})
    network = copy.deepcopy(client.proxy)
    for batch in batches(client, "shared", 0, 2):
        logits, targets = network(batch["inputs"]), batch["targets"]
        descend(network, 0.5 * nn.functional.cross_entropy(logits, targets, label_smoothing=0.3))
    update = client.fit(Broadcast(0, export(client.proxy)))
    same(network, update.arrays)
    assert set(update.metrics) == {"shared_ce"}


def test_what_an_objective_says_of_teachers_is_gated():
    client = make("energy_gated", {"backward_weight": 0.5}, objective={"ce": {}, "jsd": {"weight": 2.0, "beta": 0.5}})
    private, taught = copy.deepcopy(client.private), copy.deepcopy(client.proxy)
    for batch in batches(client, "private", 1, 1):
        logits, frozen = private(batch["inputs"]), taught(batch["inputs"]).detach()
        gates = trusts(logits, frozen, client.method.options)
        total = 0.0
        for f, g, target, gate in zip(logits, frozen, batch["targets"], gates, strict=True):
            p, q = soft(f, 1.0), soft(g, 1.0)
            middle = (p + q) / 2
            total = total + label(f, target) + 0.5 * 2.0 * gate * 0.5 * (kl(p, middle) + kl(q, middle))
        descend(private, total / len(logits))
    update = client.fit(Broadcast(1, export(client.proxy)))
    same(private, export(client.private))
    assert {"private_ce", "gated_jsd", "proxy_ce", "forward_jsd"} <= set(update.metrics)
    assert client.method.terms == ("private_ce", "gated_jsd", "proxy_ce", "forward_jsd")


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"ce": {}, "feature": {}}, "objective.feature compares features"),
        ({"kd": {}}, "learn from labels at least"),
    ],
)
def test_an_objective_that_clients_cannot_have(objective, told):
    with pytest.raises(UserError, match=told):
        make("energy_gated", objective=objective)


def test_rates_follow_a_schedule_over_all_rounds():
    plan = {"name": "cosine", "floor": 0.0, "factor": 0.1, "milestones": [], "warmup_epochs": 0, "warmup_steps": None}
    client = make("local", {"backward_epochs": 1, "forward_epochs": 0}, rounds=4, schedule=plan)
    private = copy.deepcopy(client.private)
    for step, batch in enumerate(batches(client, "private", 2, 1), 2 * 3):
        factor = 0.5 * (1 + math.cos(math.pi * step / 12))
        before = [parameter.detach().clone() for parameter in private.parameters()]
        descend(private, nn.functional.cross_entropy(private(batch["inputs"]), batch["targets"]))
        with torch.no_grad():
            for parameter, old in zip(private.parameters(), before, strict=True):
                parameter.copy_(old + factor * (parameter - old))
    client.fit(Broadcast(2))
    same(private, export(client.private))


def test_a_batch_of_a_client_can_be_computed_in_parts():
    whole, parts = make("local"), make("local", accumulate=3)
    for client in (whole, parts):
        client.fit(Broadcast(0))
    same(whole.private, export(parts.private))


def test_clients_take_optimizers_of_two_passes():
    client = make("local", optimizer={"_target_": "torch.optim.LBFGS", "lr": 0.1, "max_iter": 3})
    before = client.loop.evaluate(client.private, client.train)["loss"]
    client.fit(Broadcast(0))
    assert client.loop.evaluate(client.private, client.train)["loss"] < before
