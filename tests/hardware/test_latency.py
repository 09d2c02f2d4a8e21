"""What the time of a student is measured with: real passes, and nothing changed afterwards."""

import pytest
import torch
from torch import nn

from kdrun.hardware.exports.measure import latency_of as measure
from kdrun.problems import UserError


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(3, 2), []

    def forward(self, x):
        self.seen.append((tuple(x.shape), self.training, torch.is_grad_enabled(), torch.get_num_threads()))
        return self.linear(x)


def test_passes_are_in_eval_mode_and_all_is_as_before():
    network, threads = Counts().train(), torch.get_num_threads()
    found = measure(network, (3,), threads=threads + 1, repeats=7)
    assert set(found) == {"p50_ms", "p95_ms", "repeats"} and found["repeats"] == 7
    assert network.seen == [((1, 3), False, False, threads + 1)] * 17
    assert network.training and torch.get_num_threads() == threads
    assert 0 < found["p50_ms"] <= found["p95_ms"]


def test_a_device_that_is_not_here_is_told_and_changes_nothing():
    if torch.backends.mps.is_available():
        pytest.skip("mps is here")
    network = Counts().train()
    with pytest.raises(UserError, match="device=mps: not on this machine"):
        measure(network, (3,), device="mps")
    assert network.training
