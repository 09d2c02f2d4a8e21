"""Estimated seconds and memory of a training step against measured ones, on this CPU: python scripts/bench_estimate.py [--repeat 5]

The estimate is that of `kdrun plan` (ledger.roofline.step_seconds) with figures measured here: float32 products, copies, starts of operators.
All seconds are of the one thread that computes, which other work does not move, and figures and steps are measured in turns: what other work
takes of caches and of a core's other half slows both. Ratios are medians.
Memory is that of tensors kept for the backward pass (learning.footprint). A ratio beyond 1.5 either way is marked, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch.nn import functional

from kdrun.learning.footprint import kept_bytes
from kdrun.ledger import roofline
from kdrun.networks.mlp import MLP
from kdrun.networks.resnet import ResNet

CASES = {
    "ResNet-20, 32 pixels": (lambda: ResNet(20, 16), (3, 32, 32), 16),
    "ResNet-8, 64 pixels": (lambda: ResNet(8, 32, image_size=64), (3, 64, 64), 8),
    "MLP of 1,024": (lambda: MLP(hidden=[1024, 1024], in_channels=3, image_size=32), (3, 32, 32), 64),
}
FACTOR = 1.5


def kept_by(network: torch.nn.Module, shape: tuple[int, ...], batch: int) -> int:
    """Bytes kept between forward and backward pass."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(batch, *shape))
    own = {part.untyped_storage().data_ptr() for part in (*network.parameters(), *network.buffers())}
    return sum(number for place, (number, _) in kept.items() if place not in own)


def step_of(network: torch.nn.Module, shape: tuple[int, ...], batch: int) -> float:
    """Seconds of a forward and a backward pass, gradients made anew as in training."""
    inputs, targets = torch.randn(batch, *shape), torch.zeros(batch, dtype=torch.int64)
    network.zero_grad()
    started = time.thread_time()
    functional.cross_entropy(network(inputs), targets).backward()
    return time.thread_time() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="turns of figures and three steps")
    repeat, marked = parser.parse_args().repeat, False
    torch.set_num_threads(1)
    print(f"{'':24}{'ms estimated':>14}{'measured':>10}{'ratio':>7}{'MB estimated':>14}{'measured':>10}{'ratio':>7}")
    for name, (make, shape, batch) in CASES.items():
        network = make().train()
        operators = roofline.operators(network, roofline.on(shape), everything=True)
        size, kept, turns = kept_bytes(network, roofline.on(shape, batch)), kept_by(network, shape, batch), []
        for _ in range(repeat):
            figures = roofline.measured_figures(seconds=0.05)
            seconds = roofline.step_seconds(operators, [], batch, figures, "fp32")
            taken = min(step_of(network, shape, batch) for _ in range(3))
            turns.append((seconds / taken, seconds, taken))
        ratio, seconds, taken = statistics.median_low(turns)
        ratios = ratio, size / kept
        wrong = any(not 1 / FACTOR < ratio < FACTOR for ratio in ratios)
        marked |= wrong
        cells = f"{1e3 * seconds:>14.1f}{1e3 * taken:>10.1f}{ratios[0]:>7.2f}{size / 1e6:>14.1f}{kept / 1e6:>10.1f}{ratios[1]:>7.2f}"
        print(f"{name:24}{cells}{' <--' if wrong else ''}", flush=True)
    return 1 if marked else 0


if __name__ == "__main__":
    sys.exit(main())
