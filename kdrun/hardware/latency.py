"""How long one sample takes through a network, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WARM_UP = 10
"""Passes before the clock runs: memory is allocated, kernels are chosen."""


def measure(
    network: Any, shape: Sequence[int], device: str = "cpu", threads: int = 1, repeats: int = 100
) -> dict[str, float]:
    """{"p50_ms", "p95_ms", "repeats"} of a forward pass in eval mode on one input of `shape` [C, H, W], fp32.

    device: "cpu", "cuda", "mps" or "auto". Weights, mode, device of the network and the thread count are as before afterwards.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    mode, before = network.training, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network.to(device).eval()
        inputs = torch.zeros((1, *shape), device=device)
        times = []
        with torch.inference_mode():
            for number in range(WARM_UP + repeats):
                wait()
                start = time.perf_counter_ns()
                network(inputs)
                wait()
                if number >= WARM_UP:
                    times.append((time.perf_counter_ns() - start) / 1e6)
    finally:
        network.to(home).train(mode)
        torch.set_num_threads(before)
    times.sort()
    return {"p50_ms": statistics.median(times), "p95_ms": times[(95 * len(times) - 1) // 100], "repeats": repeats}


def student_of(stage: Path, which: str = "best") -> tuple[Any, tuple[int, ...]]:
    """(network with the weights of a finished stage, shape of its inputs), from the stage's folder alone."""
    from kdrun.networks.build import build_network, spec_of
    from kdrun.networks.weights import load_weights, read_metadata

    weights = stage / f"{which}.safetensors"
    known = read_metadata(weights)
    spec = spec_of(known)
    network = build_network(known["network"], spec, seed=0)
    load_weights(network, weights, spec)
    return network, spec.shape
