"""The moving average of the weights against one written out: student only, buffers copied, counters whole."""

import torch
from torch import nn

from kdrun.learning.learner import _average


def test_average_against_a_slow_reference():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average, decay = _average(network, 0.8), 0.8
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    expected = None
    for _ in range(4):
        network(torch.randn(5, 3)).pow(2).sum().backward()
        optimizer.step()
        average.update_parameters(network)
        now = {name: p.detach().clone() for name, p in network.named_parameters()}
        # The first update takes the weights as they are; an average that began at the random start would keep it in.
        expected = now if expected is None else {n: decay * expected[n] + (1 - decay) * now[n] for n in now}
    for name, parameter in average.module.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-6), name
    for name, buffer in network.named_buffers():
        assert torch.equal(dict(average.module.named_buffers())[name], buffer), name
