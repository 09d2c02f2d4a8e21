"""Estimated seconds and memory of a training step against measured ones, on this CPU: python scripts/bench_estimate.py [--repeat 5]

The estimate is that of `kdrun plan` (ledger.roofline.step_seconds) with figures measured here: float32 products, copies, starts of operators.
Memory is that of tensors kept for the backward pass (learning.footprint). A ratio beyond 1.5 either way is marked, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
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


def measured(network: torch.nn.Module, shape: tuple[int, ...], batch: int, repeat: int) -> tuple[float, int]:
    """(least seconds of forward and backward pass, bytes kept between them)."""
    inputs, targets, times, kept = torch.randn(batch, *shape), torch.zeros(batch, dtype=torch.int64), [], {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(inputs)
    own = {part.untyped_storage().data_ptr() for part in (*network.parameters(), *network.buffers())}
    size = sum(number for place, (number, _) in kept.items() if place not in own)
    for _ in range(repeat + 1):
        started = time.perf_counter()
        functional.cross_entropy(network(inputs), targets).backward()
        times.append(time.perf_counter() - started)
    return min(times[1:]), size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeat", type=int, default=5, help="steps of which the fastest counts, as for the figures of this CPU"
    )
    repeat, marked = parser.parse_args().repeat, False
    torch.set_num_threads(1)
    figures = roofline.measured_figures()
    print(f"{'':24}{'ms estimated':>14}{'measured':>10}{'ratio':>7}{'MB estimated':>14}{'measured':>10}{'ratio':>7}")
    for name, (make, shape, batch) in CASES.items():
        network = make().train()
        operators = roofline.operators(network, roofline.on(shape), everything=True)
        seconds = roofline.step_seconds(operators, [], batch, figures, "fp32")
        size = kept_bytes(network, roofline.on(shape, batch))
        taken, kept = measured(network, shape, batch, repeat)
        ratios = seconds / taken, size / kept
        wrong = any(not 1 / FACTOR < ratio < FACTOR for ratio in ratios)
        marked |= wrong
        cells = f"{1e3 * seconds:>14.1f}{1e3 * taken:>10.1f}{ratios[0]:>7.2f}{size / 1e6:>14.1f}{kept / 1e6:>10.1f}{ratios[1]:>7.2f}"
        print(f"{name:24}{cells}{' <--' if wrong else ''}", flush=True)
    return 1 if marked else 0


if __name__ == "__main__":
    sys.exit(main())
