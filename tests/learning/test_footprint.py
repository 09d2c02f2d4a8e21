"""Estimated memory and operations of a step against those of the same step when it is taken."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdrun.learning.footprint import bytes_of, footprint, kept_bytes, optimizer_share
from kdrun.ledger import roofline
from kdrun.networks.resnet import ResNet

TRAINER = {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001}}
HARDWARE = {"devices": 1, "precision": "fp32"}


def resnet(depth: int = 8) -> ResNet:
    return ResNet(depth, 4, in_channels=3, image_size=16)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


MADE = {"convolutions": (resnet, (3, 16, 16)), "transformer": (encoder, (12, 8))}


@pytest.mark.parametrize("kind", MADE)
def test_operations_of_a_step_are_those_that_it_takes(kind):
    """Three times the counted forward pass, within a factor of 1.5."""
    make, shape = MADE[kind]
    network = make().train()
    estimate = roofline.PASSES * sum(one.flops for one in roofline.operators(network, roofline.on(shape, 4)))
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(4, *shape)).square().sum().backward()
    assert estimate / 1.5 < counter.get_total_flops() < 1.5 * estimate


@pytest.mark.parametrize("kind", MADE)
def test_kept_activations_are_those_of_a_step(kind):
    make, shape = MADE[kind]
    network, kept = make().train(), {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): (t.untyped_storage().nbytes(), t)}) or t, lambda t: t
    ):
        network(torch.randn(4, *shape))
    own = {one.untyped_storage().data_ptr() for one in (*network.parameters(), *network.buffers())}
    measured = sum(size for place, (size, _) in kept.items() if place not in own)
    assert measured / 1.5 < kept_bytes(network, roofline.on(shape, 4)) < 1.5 * measured


@pytest.mark.parametrize(
    ("node", "share"),
    [
        ({"_target_": "torch.optim.SGD", "lr": 0.1}, 0),
        ({"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}, 1),
        ({"_target_": "torch.optim.AdamW"}, 2),
    ],
)
def test_state_of_optimizers(node, share):
    assert optimizer_share(node) == pytest.approx(share)


def test_memory_counts_what_is_built():
    student, teacher = resnet(), resnet(14)
    size, trained = bytes_of(student), bytes_of(student, trained=True)
    assert size > trained == 4 * sum(parameter.numel() for parameter in student.parameters())
    found = footprint(student, [teacher], TRAINER, HARDWARE, 1e6, 100)
    expected = {"weights": size, "gradients": trained, "optimizer": 2 * trained, "buckets": 0, "activations": 1e6}
    expected |= {"outputs": 4 * 100 * 3, "teachers": bytes_of(teacher)}
    assert {name: 1e9 * found[name] for name in expected} == pytest.approx(expected)
    assert 1e9 * found["total"] == pytest.approx(sum(expected.values()))
    halved = footprint(student, [teacher.half()], TRAINER, {**HARDWARE, "precision": "bf16"}, 1e6, 100)
    assert halved["teachers"] == pytest.approx(found["teachers"] / 2, rel=0.01) and halved["activations"] == 5e-4
    two = footprint(student, [], TRAINER, {**HARDWARE, "devices": 2}, 1e6, 100)
    assert two["buckets"] == two["gradients"] and two["weights"] == found["weights"]
    sharded = footprint(student, [], {**TRAINER, "sharding": "fsdp"}, {**HARDWARE, "devices": 2}, 1e6, 100)
    assert sharded["weights"] == pytest.approx(found["weights"] / 2)
    assert 1e9 * sharded["buckets"] == 2 * bytes_of(student.stage3)
    assert footprint(student, [], TRAINER, HARDWARE, None, 100)["total"] is None


def test_weights_are_read_once_however_many_samples_there_are():
    """Of a linear layer: weights and bias once, inputs and outputs for each sample."""
    (operator,) = roofline.operators(nn.Linear(8, 4), roofline.on((8,)))
    (whole,) = roofline.operators(nn.Linear(8, 4), roofline.on((8,), 32))
    assert (operator.over(32).flops, operator.over(32).elements) == (whole.flops, whole.elements)
