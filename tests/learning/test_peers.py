"""Networks that are trained together: against the algorithm written out, to the bit after a stop, and what stays of each."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdrun.domains.images.task import Classification
from kdrun.domains.load import load_data
from kdrun.learning.report import Interrupted
from kdrun.learning.teacher import Peers
from kdrun.networks.weights import load_state
from kdrun.parts import WHOLE, parts_of
from kdrun.strategies.cast import Cast
from kdrun.strategies.mutual import Mutual

from .stages import Silent, cell, make_lab
from .test_resume import same


def trained(path, *words, peers=1, report=None):
    return Mutual(peers=peers).run(make_lab(path, report), Cast(cell("objective=mutual", *words)))


def test_peers_are_asked_as_they_learn_and_keep_their_statistics():
    config = cell()
    task = Classification(load_data(config["data"], config["paths"]).spec)
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10)) for _ in range(2)]
    source, inputs = Peers(task), torch.randn(8, 1, 8, 8)
    source.follow([(networks[0], None)])
    before = copy.deepcopy(networks[0].state_dict())
    said = source.outputs({"inputs": inputs})
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks[0].state_dict().items())
    torch.testing.assert_close(said.logits, networks[0](inputs).detach())  # statistics of the batch
    assert not said.logits.requires_grad and source.samples == 8 and source.batch_statistics
    source.follow([(network, None) for network in networks])
    assert [each.logits.shape for each in source.outputs({"inputs": inputs})] == [(8, 10)] * 2


@pytest.mark.parametrize("peers", [1, 2])
def test_training_is_that_of_the_paper_written_out(tmp_path, peers):
    """Algorithm 1: each network steps in turn, and is taught by what the others are at that moment."""
    words = (
        "trainer.epochs=1",
        "trainer/optimizer=sgd",
        "trainer.schedule.name=constant",
        "trainer.schedule.warmup_epochs=0",
    )
    result = trained(tmp_path, *words, peers=peers)
    stage = result.stage
    config = cell("objective=mutual", *words)
    module = load_data(config["data"], config["paths"])
    from kdrun.learning import seeds
    from kdrun.networks.build import build_network
    from kdrun.targets import build

    numbers = [stage.seed, *(peer["seed"] for peer in stage.peers)]
    node = stage.learner["network"]
    networks = [build_network(node, module.spec, seeds.derive(seed, "weights")).train() for seed in numbers]
    optimizers = [build(stage.trainer["optimizer"], "optimizer", params=net.parameters()) for net in networks]
    loader = module.train_loader(64, seeds.derive(stage.seed, "data"))
    loader.set_epoch(0)
    for batch in loader:
        for number, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            logits, total = network(batch["inputs"]), 0.0
            for other in [other for place, other in enumerate(networks) if place != number]:
                p = torch.softmax(other(batch["inputs"]).detach(), 1)
                for row, target in zip(range(len(p)), logits, strict=True):
                    total = total + (p[row] * (p[row].log() - torch.log_softmax(target, 0))).sum()
            loss = functional.cross_entropy(logits, batch["targets"]) + total / len(p) / (len(networks) - 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    parts = result.parts
    assert list(parts) == [WHOLE, *(f"peer_{n}" for n in range(1, peers + 1))]
    for network, part in zip(networks, parts.values(), strict=True):
        kept = load_state(result.path / part.weights("last"))
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(kept[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stop_at", [3, 7, 11])
def test_stopped_and_started_again_to_the_last_bit(tmp_path, stop_at):
    words = ("data.augment.crop=1", "trainer.ema=0.9", "trainer.clip=1.0", "trainer.accumulate=2")
    unbroken = trained(tmp_path / "a", *words)
    with pytest.raises(Interrupted):
        trained(tmp_path / "b", *words, report=Silent(stop_at))
    resumed = trained(tmp_path / "b", *words)
    same(unbroken, resumed)
    assert unbroken.record["peers"] == resumed.record["peers"] and resumed.record["cost"]["tries"] == 2
    for which in ("best", "last"):
        one, other = (load_state(result.path / f"peer_1.{which}.safetensors") for result in (unbroken, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_result_is_the_students_and_has_a_part_for_each_peer(tmp_path):
    result = trained(tmp_path)
    record, (peer,) = result.record, result.record["peers"]
    assert (
        peer["seed"] == 1000 and peer["first_step"]["kd"]["gradient"] > 0 and record["first_step"]["kd"]["gradient"] > 0
    )
    assert peer["test"] != record["test"] and len(peer["history"]) == 3
    student, other = parts_of(record).values()
    assert student.figure("accuracy") == record["test"]["best"]["accuracy"] and student.counted and not other.counted
    assert other.figure("accuracy") == peer["test"]["best"]["accuracy"]
    for which in ("best", "last"):
        assert set(load_state(result.path / student.weights(which))) == set(
            load_state(result.path / other.weights(which))
        )
    flops = record["cost"]["flops"]
    samples = record["cost"]["samples"]
    assert flops["student"] == 3 * 2 * record["flops"] * samples and flops["teacher"] == 2 * record["flops"] * samples
    assert record["teacher"]["peers"] == ["peer_1"]


def test_a_peer_of_another_make_and_features(tmp_path):
    words = ("teacher@assistants.resnet8=mlp_64", "objective.kd.temperature=2", "+objective.feature.weight=1.0")
    result = trained(tmp_path, *words, peers=["resnet8"])
    (peer,) = result.record["peers"]
    assert peer["learner"] == "mlp_64" and peer["parameters"] > result.record["parameters"]
    assert result.record["first_step"]["feature"]["gradient"] > 0 and peer["first_step"]["feature"]["gradient"] > 0
