"""Networks with channels taken out and 8-bit rounding, against slow references."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.networks.build import build_network
from kdrun.networks.compressed import Compressed, Rounding, WeightRounding, settled, take_out, without_rounding
from kdrun.networks.weights import load_weights, save_weights
from kdrun.problems import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
SPEC = DataSpec("images", tuple("abcde"), (1, 12, 12), {}, (0.0,), (1.0,))
IMAGES = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
RESNET = {"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 4}


def node(base=RESNET, **settings):
    return {
        "_target_": "kdrun.networks.compressed.Compressed", "base": {**base, "_partial_": True},
        "prune": 0.0, "quantize": False, "importance": "l2", **settings,
    }  # fmt: skip


def shipped(name):
    return yaml.safe_load((CONF / "network" / f"{name}.yaml").read_text())


def started(tmp_path, base=RESNET, **settings):
    """(the base with weights of its own, the compressed network that started from them)."""
    network = build_network(base, SPEC, seed=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    file = save_weights(network, tmp_path / "base.safetensors", SPEC, base)
    small = build_network(node(base, **settings), SPEC, seed=2)
    load_weights(small, file, SPEC)
    return network.eval(), small.eval()


@pytest.mark.parametrize("name", ["resnet8", "resnet8_w2", "mlp_64", "cnn_small"])
def test_how_many_channels_go_does_not_depend_on_weights(name):
    shapes = [
        {
            key: tensor.shape
            for key, tensor in build_network(node(shipped(name), prune=0.5), SPEC, seed).state_dict().items()
        }
        for seed in (0, 1)
    ]
    assert shapes[0] == shapes[1]
    small, base = build_network(node(shipped(name), prune=0.5), SPEC, 0), build_network(shipped(name), SPEC, 0)
    task = Classification(SPEC)
    assert task.flops(small) < 0.6 * task.flops(base)
    assert small(IMAGES).shape == (6, 5)


def test_channels_that_do_nothing_are_those_that_go():
    network = build_network({"_target_": "kdrun.networks.mlp.MLP", "hidden": [32, 32]}, SPEC, 0).eval()
    first, second = [part for part in network.modules() if isinstance(part, nn.Linear)][:2]
    dead = torch.randperm(32, generator=torch.Generator().manual_seed(3))[:16]
    with torch.no_grad():
        for layer, following in (
            (first, second),
            (second, [p for p in network.modules() if isinstance(p, nn.Linear)][2]),
        ):
            layer.weight[dead] = 0
            layer.bias[dead] = 0
            following.weight[:, dead] = 0
    before = network(IMAGES)
    take_out(network, IMAGES[:2], 0.5, "l2")
    assert first.out_features == 16 and torch.allclose(network(IMAGES), before, atol=1e-6)


def test_the_channels_of_a_block_that_do_nothing_go():
    network = build_network({**RESNET, "width": 8}, SPEC, 5).eval()
    block, dead = network.stage1[0], [0, 3, 4, 6]
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.norm1.weight, block.norm1.bias):
            tensor[dead] = 0
        block.conv2.weight[:, dead] = 0
    take_out(network, IMAGES[:2], 0.5, "l2")
    assert network.stage1[0].conv1.out_channels == 4
    assert (network.stage1[0].conv1.weight.detach().flatten(1).norm(dim=1) > 0).all(), "only living channels are left"


def test_weights_of_the_base_are_adopted_and_files_read_back(tmp_path):
    base, small = started(tmp_path, prune=0.5, quantize=True)
    reference = copy.deepcopy(base)
    take_out(reference, IMAGES[:2], 0.5, "l2")
    assert torch.equal(small.plain()(IMAGES), reference(IMAGES)), "taken out of these weights, not of random ones"
    small.train()(IMAGES)
    small.eval()
    file = save_weights(small, tmp_path / "small.safetensors", SPEC, node(prune=0.5, quantize=True))
    again = build_network(node(prune=0.5, quantize=True), SPEC, seed=9)
    load_weights(again, file, SPEC)
    assert torch.equal(again.eval()(IMAGES), small(IMAGES))
    further = build_network(node(prune=0.5), SPEC, seed=9)
    load_weights(further, file, SPEC)
    assert torch.equal(further.eval()(IMAGES), small.plain()(IMAGES)), "without rounding again"


def test_rounding_then_pruning_keeps_the_ranges_that_were_seen(tmp_path):
    _, rounded = started(tmp_path, quantize=True)
    rounded.train()(IMAGES)
    file = save_weights(rounded, tmp_path / "rounded.safetensors", SPEC, node(quantize=True))
    both = build_network(node(prune=0.5, quantize=True), SPEC, seed=9)
    load_weights(both, file, SPEC)
    assert both.network.stem.in_channels == 1 and both.network.stem.out_channels <= rounded.network.stem.out_channels
    assert torch.isfinite(both.train()(IMAGES)).all()


def test_channels_do_not_come_back_and_other_networks_do_not_start_it(tmp_path):
    _, small = started(tmp_path, prune=0.5)
    file = save_weights(small, tmp_path / "small.safetensors", SPEC, node(prune=0.5))
    for settings, said in (({"prune": 0.0}, "0.5 of the channels"), ({"prune": 0.25}, "0.25 taken out")):
        with pytest.raises(UserError, match=said):
            load_weights(build_network(node(**settings), SPEC, 0), file, SPEC)
    other = save_weights(
        build_network({**RESNET, "width": 8}, SPEC, 0), tmp_path / "o.safetensors", SPEC, {**RESNET, "width": 8}
    )
    with pytest.raises(UserError, match="cannot start a compressed ResNet"):
        load_weights(build_network(node(prune=0.5), SPEC, 0), other, SPEC)


def test_rounding_by_hand():
    weight = torch.randn(3, 4)
    for row, rounded in zip(weight, WeightRounding()(weight), strict=True):
        scale = row.abs().max() / 127
        assert torch.allclose(rounded, (row / scale).round().clamp(-127, 127) * scale, atol=1e-6)
    rounding = Rounding().train()
    values = torch.tensor([-1.0, 0.0, 0.3, 3.0])
    found = rounding(values)
    scale = 4.0 / 255
    zero = round(-128 + 1.0 / scale)
    expected = ((values / scale).round() + zero).clamp(-128, 127).sub(zero) * scale
    assert torch.allclose(found, expected, atol=1e-6)


def test_settled_rounding_is_the_same_rounding():
    network = build_network(node(prune=0.5, quantize=True), SPEC, 0)
    with pytest.raises(UserError, match="no training step"):
        settled(network)
    network.train()(IMAGES)
    assert torch.equal(settled(network)(IMAGES), network.eval()(IMAGES))


def test_gradients_pass_straight_through():
    rounding, values = Rounding().train(), torch.linspace(-1, 1, 9, requires_grad=True)
    rounding(values).sum().backward()
    assert torch.equal(values.grad, torch.ones(9))
    weight = torch.randn(3, 4, requires_grad=True)
    WeightRounding()(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(3, 4))


def test_evaluation_leaves_no_trace_in_ranges():
    network = build_network(node(quantize=True), SPEC, 0)
    network.train()(IMAGES)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.eval()(100 * IMAGES)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_rounding_can_be_taken_off():
    network = build_network(node(quantize=True), SPEC, 0).eval()
    network.train()(IMAGES)
    plain = network.eval().plain()
    assert not any("rounding" in name for name in plain.state_dict()) and type(plain.stem) is nn.Conv2d
    without_rounding(network.network)
    assert torch.equal(network(IMAGES), plain(IMAGES))


def test_a_network_that_cannot_be_taken_apart_says_so():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.only = nn.Linear(144, 5)

        def forward(self, images):
            return self.only(images.flatten(1))

    with pytest.raises(UserError, match="nothing in it can be pruned"):
        take_out(Odd(), IMAGES[:2], 0.5, "l2")
    with pytest.raises(ValueError, match="share of channels"):
        Compressed(lambda: None, prune=1.0)


def test_missing_packages_are_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UserError, match="pip install torch-pruning"):
        build_network(node(prune=0.5), SPEC, 0)
    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e", None)
    with pytest.raises(UserError, match="pip install torchao"):
        Rounding()


def test_what_torchao_says_of_other_devices_is_not_heard():
    import subprocess
    import sys

    code = "from kdrun.networks.compressed import Rounding; Rounding(); import sys; print('torchao' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True" and not done.stderr
