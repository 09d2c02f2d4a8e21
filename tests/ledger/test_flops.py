"""Counts against formulas written by hand; a multiply-add is 2."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdrun.ledger.flops import counted_flops, on_meta, parameters
from kdrun.networks.resnet import ResNet


def forward_flops(network, shape, batch=1):
    return counted_flops(network, lambda shadow: shadow(torch.empty((batch, *shape), device="meta")))


def conv(inputs: int, outputs: int, kernel: int, side: int) -> int:
    return 2 * inputs * outputs * kernel * kernel * side * side


def resnet_formula(depth: int, width: int, channels: int, side: int, classes: int, shortcut: str) -> int:
    blocks, total = (depth - 2) // 6, conv(channels, width, 3, side)
    before = width
    for stage, out in enumerate((width, 2 * width, 4 * width)):
        side = side // 2 if stage and side >= 4 else side
        total += conv(before, out, 3, side) + (2 * blocks - 1) * conv(out, out, 3, side)
        if shortcut == "B" and stage:
            total += conv(before, out, 1, side)
        before = out
    return total + 2 * before * classes


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(("depth", "width", "shape"), [(20, 16, (3, 32, 32)), (8, 4, (1, 8, 8)), (14, 8, (1, 28, 28))])
@pytest.mark.parametrize("batch", [1, 5])
def test_resnet(shortcut, depth, width, shape, batch):
    network = ResNet(depth, width, shortcut, in_channels=shape[0], image_size=shape[1])
    expected = resnet_formula(depth, width, shape[0], shape[1], 10, shortcut)
    assert forward_flops(network, shape, batch) == batch * expected


@pytest.mark.parametrize("training", [True, False])
def test_transformer_encoder_in_either_mode(training):
    length, width, wide, layers = 24, 32, 64, 2
    layer = nn.TransformerEncoderLayer(width, 4, wide, batch_first=True)
    network = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).train(training)
    projections = 4 * 2 * length * width * width
    attention = 2 * 2 * length * length * width
    feedforward = 2 * 2 * length * width * wide
    assert forward_flops(network, (length, width)) == layers * (projections + attention + feedforward)


def test_fused_attention():
    class Attention(nn.Module):
        def forward(self, x):
            return functional.scaled_dot_product_attention(x, x, x)

    assert forward_flops(Attention(), (4, 16, 8)) == 2 * 2 * 4 * 16 * 16 * 8


@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind, gates):
    length, inputs, hidden = 12, 8, 16
    network = kind(inputs, hidden, batch_first=True)
    assert forward_flops(network, (length, inputs)) == 2 * length * gates * hidden * (inputs + hidden)


def test_the_network_is_not_touched():
    network = ResNet(8, 4, in_channels=1, image_size=8).train()
    network.stage1.eval()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    forward_flops(network, (1, 8, 8))
    assert modes == [module.training for module in network.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled() is fast
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu" and tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_the_copy_needs_no_memory_and_keeps_ties():
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.BatchNorm1d(64))
    network[1].weight = network[0].weight
    copy = on_meta(network)
    tensors = [*copy.parameters(), *copy.buffers()]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert copy[1].weight is copy[0].weight
    assert [p.requires_grad for p in copy.parameters()] == [p.requires_grad for p in network.parameters()]


def test_frozen_and_tied_parameters_count_once():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    network[1].weight = network[0].weight
    network[2].requires_grad_(False)
    assert parameters(network) == 16 + 4 + 8


class NeedsValues(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum().item() > 0 else x


class KeepsATensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = [torch.ones(4, 4)]

    def forward(self, x):
        return x @ self.hidden[0]


def test_a_tensor_that_is_no_parameter_does_not_matter():
    assert forward_flops(KeepsATensor(), (4,)) == 2 * 4 * 4


@pytest.mark.parametrize("network", [NeedsValues(4, 4), nn.ReLU()], ids=["needs values", "nothing counted"])
def test_what_cannot_be_counted_is_none_and_never_zero(network):
    assert forward_flops(network, (4,)) is None
