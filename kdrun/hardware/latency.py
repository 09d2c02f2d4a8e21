"""How long one sample takes through a network, on this machine."""

from __future__ import annotations

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
    import numpy as np
    import torch

    from kdrun.hardware.exports import measure as room
    from kdrun.hardware.exports.sessions import TorchSession

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    mode = network.training
    session = None
    try:
        session = TorchSession(network.eval(), threads, device)
        found = room.latency(session, [np.zeros((1, *shape), np.float32)], calls=repeats, warm_up=WARM_UP)
    finally:
        if session is not None:
            session.close()
        network.to(home).train(mode)
    return {"p50_ms": found["p50_ms"], "p95_ms": found["p95_ms"], "repeats": repeats}


def student_of(stage: Path, which: str = "best") -> tuple[Any, tuple[int, ...]]:
    """(network with the weights of a finished stage, shape of its inputs), from the stage's folder alone."""
    from kdrun.kinds import spec_of
    from kdrun.networks.build import build_network
    from kdrun.networks.weights import load_weights, read_metadata

    weights = stage / f"{which}.safetensors"
    known = read_metadata(weights)
    spec = spec_of(known)
    network = build_network(known["network"], spec, seed=0)
    load_weights(network, weights, spec)
    return network, spec.shape
