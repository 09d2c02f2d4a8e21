"""Neurons against snntorch and a slow loop; networks whose activations are replaced; what they fire and cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdrun.domains.images.spec import DataSpec
from kdrun.networks.build import build_network
from kdrun.networks.capture import Capture, captured, only_call
from kdrun.networks.resnet import ResNet
from kdrun.networks.spiking import MeanOverFrames, Neurons, Spiking, operations
from kdrun.problems import UserError


def inputs(steps=6, seed=0):
    return torch.randn(steps, 5, 7, generator=torch.Generator().manual_seed(seed)).mul(1.5)


def slow(values, decay=0.5, threshold=1.0):
    """Spikes of one neuron after another, in Python numbers."""
    spikes = torch.zeros_like(values)
    for place in range(values[0].numel()):
        potential, fired = 0.0, 0.0
        for step in range(len(values)):
            potential = decay * potential * (1 - fired) + float(values[step].flatten()[place])
            fired = float(potential > threshold)
            spikes[step].view(-1)[place] = fired
    return spikes


def test_spikes_are_those_of_a_slow_loop():
    values = inputs().double()
    assert torch.equal(Neurons()(values), slow(values))
    assert 0 < Neurons()(values).mean() < 1


@pytest.mark.parametrize("detached", [True, False])
def test_spikes_equal_those_of_snntorch_and_so_do_gradients_where_the_reset_is_detached(detached):
    snntorch = pytest.importorskip("snntorch", reason="pip install 'kdrun[snn]'")
    from snntorch import surrogate

    theirs = snntorch.Leaky(beta=0.5, threshold=1.0, reset_mechanism="zero", spike_grad=surrogate.sigmoid(slope=4))
    one, other = inputs().requires_grad_(), inputs().requires_grad_()
    potential, spikes = theirs.init_leaky(), []
    for value in one:
        fired, potential = theirs(value, potential)
        spikes.append(fired)
    ours = Neurons(detach_reset=detached)(other)
    assert torch.equal(torch.stack(spikes), ours)
    weights = inputs(seed=1)
    (torch.stack(spikes) * weights).sum().backward()
    (ours * weights).sum().backward()
    same = torch.allclose(one.grad, other.grad, atol=1e-5)
    assert same if detached else not same


def test_the_gradient_is_that_of_a_sigmoid():
    value = torch.tensor([[0.3], [0.8]], requires_grad=True)
    Neurons(slope=4.0)(value).sum().backward()
    slope = lambda x: 4 * torch.sigmoid(torch.tensor(4 * x)) * (1 - torch.sigmoid(torch.tensor(4 * x)))  # noqa: E731
    # u1 = 0.3, u2 = 0.5 * 0.3 * (1 - s1) + 0.8 with s1 = 0, whose own gradient lowers u2 by 0.5 * 0.3
    first, second = slope(0.3 - 1), slope(0.95 - 1)
    assert torch.allclose(value.grad.flatten(), torch.stack([first + second * (0.5 - 0.15 * first), second]), atol=1e-6)


def test_any_network_spikes_where_it_had_activations():
    torch.manual_seed(0)
    images = torch.rand(3, 1, 8, 8)
    network = Spiking(ResNet(8, 4, in_channels=1, image_size=8), steps=4).eval()
    output = network(images)
    assert output["steps"].shape == (3, 4, 10) and torch.equal(
        output["logits"], output["steps"].transpose(0, 1).mean(0)
    )
    assert output["firing"].shape == (3, 1 + 3 * 2) and 0 < output["firing"].mean() < 1
    with pytest.raises(UserError, match="nothing in it can spike"):
        Spiking(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))(images)


def test_steps_of_one_image_are_the_same_network_run_step_by_step():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    images = torch.rand(5, 1, 8, 8) * 3
    found = Spiking(inner, steps=3)(images)["steps"]
    current = inner[1](images.flatten(1))
    spikes = Neurons()(current.expand(3, 5, 12))
    assert torch.allclose(found, inner[3](spikes).transpose(0, 1), atol=1e-6)
    assert torch.allclose(Spiking(inner, steps=3)(images)["firing"], spikes.mean((0, 2))[:, None])


def test_frames_are_one_for_each_step():
    torch.manual_seed(0)
    frames = torch.rand(2, 4 * 2, 6, 6)
    inner = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10))
    found = Spiking(inner, steps=4, frames=4)(frames)["steps"]
    currents = torch.stack([inner[0](frames[:, 2 * step : 2 * step + 2]) for step in range(4)])
    assert torch.allclose(found[:, 2], inner[3](Neurons()(currents)[2].flatten(1)), atol=1e-6)
    mean = frames.view(2, 4, 2, 6, 6).mean(1)
    assert torch.allclose(MeanOverFrames(inner, 4)(frames), inner(mean), atol=1e-6)
    with pytest.raises(UserError, match="8 channels, which are not those of 3 frames"):
        MeanOverFrames(inner, 3)(frames)


def test_what_is_captured_inside_is_a_mean_over_steps():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    network, images = Spiking(inner, steps=3), torch.rand(5, 1, 8, 8) * 3
    rates = Neurons()(inner[1](images.flatten(1)).expand(3, 5, 12)).mean(0)
    _, found = Capture(network, {"network.2": "", "network.3": ""}).of(lambda: network(images))
    assert torch.allclose(found["network.2"][0], rates)
    assert torch.allclose(found["network.3"][0], network(images)["logits"], atol=1e-6)
    with captured(network) as features:
        network(images)
    assert torch.allclose(only_call(network, features), rates)


def test_operations_are_counted_where_there_are_spikes():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    images = torch.rand(5, 1, 8, 8) * 3 + 0.01
    network = Spiking(inner, steps=3)
    found = operations(network, images)
    spikes = Neurons()(inner[1](images.flatten(1)).expand(3, 5, 12))
    assert found["macs"] == pytest.approx(3 * 64 * 12)
    assert found["synaptic"] == pytest.approx(float(spikes.sum()) / 5 * 10)
    plain = operations(inner, images)
    assert plain["macs"] == 64 * 12 + 12 * 10 and plain["synaptic"] == 0
    assert functional.relu(torch.tensor(-1.0)) == 0  # nothing is left replaced


def test_a_network_of_mean_frames_has_the_classes_of_the_data():
    inner = {"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 4, "in_channels": 2}
    node = {"_target_": "kdrun.networks.spiking.MeanOverFrames", "frames": 4, "network": inner}
    spec = DataSpec("events", ("a", "b", "c"), (8, 8, 8), {}, (0.0,) * 8, (1.0,) * 8)
    assert build_network(node, spec, 0)(torch.zeros(2, 8, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [("steps", 0, "at least 1"), ("frames", 2, "null, or as many as steps: 4"), ("threshold", -1, "above 0")],
)
def test_a_setting_that_no_neuron_can_have_is_named(key, value, allowed):
    with pytest.raises(UserError, match=f"^{key}={value} of a spiking network: {allowed}"):
        Spiking(torch.nn.ReLU(), **{key: value})
