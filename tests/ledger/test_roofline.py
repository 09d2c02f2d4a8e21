"""The roofline against sums written out by hand."""

import pytest
import torch
from torch import nn

from kdrun.ledger.figures import DeviceFigures
from kdrun.ledger.flops import counted_flops
from kdrun.ledger.roofline import error, estimate, measured_figures, on, operators

DEVICE = DeviceFigures(
    "device",
    {"fp32": 1e-3, "int8": 4e-3, "fp16": None},
    1.0,
    2.0,
    "made up",
    power_w={"usual": 5, "low": 1},
    utilisation=0.5,
)


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10))


def test_a_network_of_two_layers_by_hand():
    found = operators(two_layers(), on((100,), batch=3))
    assert [one.flops for one in found] == [2 * 3 * 100 * 200, 2 * 3 * 200 * 10]
    first, second = 3 * 100 + 100 * 200 + 200 + 3 * 200, 3 * 200 + 200 * 10 + 10 + 3 * 10
    assert [one.elements for one in found] == [first, second]


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("int8", 1)])
def test_time_energy_and_memory_by_hand(precision, size):
    network = two_layers()
    found = estimate(network, (100,), DEVICE, precision)
    peak = {"fp32": 1e9, "int8": 4e9}[precision] * 0.5
    seconds, bound = 0.0, 0.0
    for inputs, outputs in ((100, 200), (200, 10)):
        arithmetic = 2 * inputs * outputs / peak
        memory = (inputs + inputs * outputs + outputs + outputs) * size / 2e9
        seconds += max(arithmetic, memory)
        bound += arithmetic if arithmetic >= memory else 0
    assert found.ms == pytest.approx(1e3 * seconds) and found.joules == pytest.approx(5 * seconds)
    assert found.compute_bound == pytest.approx(bound / seconds)
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert found.memory_mb == pytest.approx((weights + 100 + 100 * 200 + 200 + 200) * size / 1e6)


def test_launches_count_once_an_operator():
    from dataclasses import replace

    slow = replace(DEVICE, launch_us=100)
    assert estimate(two_layers(), (100,), slow).ms == pytest.approx(estimate(two_layers(), (100,), DEVICE).ms + 0.2)


def test_what_is_not_published_is_unknown():
    assert estimate(two_layers(), (100,), DEVICE, "fp16").ms is None
    assert estimate(two_layers(), (100,), DEVICE, "bf16").joules is None


def test_operations_are_those_of_the_counter_with_attention_too():
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    seen = sum(one.flops for one in operators(block, on((7, 16))))
    assert seen == counted_flops(block, on((7, 16))) > 0
    convolution = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)
    )
    assert sum(one.flops for one in operators(convolution, on((3, 8, 8)))) == counted_flops(convolution, on((3, 8, 8)))


def test_the_network_is_as_it_was_and_one_that_needs_values_is_unknown():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, inputs):
            return self.layer(inputs) if inputs.sum() > 0 else inputs

    network = two_layers().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert estimate(network, (100,), DEVICE) and network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert estimate(Looks(), (4,), DEVICE) is None


def test_what_this_machine_reaches_is_positive_and_leaves_threads_alone():
    threads = torch.get_num_threads()
    found = measured_figures(seconds=0.01)
    assert (
        found.peak_tflops["fp32"] > 0
        and found.bandwidth_gb_s > 0
        and 0 < found.launch_us < 1e3
        and torch.get_num_threads() == threads
    )


def test_the_error_of_the_model_is_said():
    assert error(2.0, 4.0) == -0.5 and error(None, 4.0) is None
