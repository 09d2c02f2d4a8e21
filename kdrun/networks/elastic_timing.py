"""The latency of a network as a function of its widths, fitted to times that were measured on the device it runs on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdrun.networks.modes import evaluating

SEMANTICS = 2
TURNS = 9
"""Forward passes of each network that are timed, after one that is not."""


@torch.no_grad()
def measured(networks: Sequence[nn.Module], inputs: Mapping[str, Tensor] | Tensor, device: torch.device) -> list[float]:
    """Seconds of the fastest forward pass of each network on these inputs, in turns. What else a machine does only adds to a time."""
    inputs = (
        {name: value.to(device) for name, value in inputs.items()} if isinstance(inputs, Mapping) else inputs.to(device)
    )
    seconds: list[list[float]] = [[] for _ in networks]
    for turn in range(TURNS + 1):
        for network, times in zip(networks, seconds, strict=True):
            with evaluating(network.to(device)):
                begun = time.perf_counter()
                network(**inputs) if isinstance(inputs, Mapping) else network(inputs)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times += [time.perf_counter() - begun] if turn else []
    return [min(times) for times in seconds]


def coefficients(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> Tensor:
    """float64 [k]: of these features [n, k], none below 0, whose sums are nearest to the seconds [n] in relative error."""
    from scipy.optimize import nnls

    rows, times = np.asarray(features, float), np.asarray(seconds, float)
    return torch.from_numpy(nnls(rows / times[:, None], np.ones(len(times)))[0])


def settings(groups: int, choices: int, generator: torch.Generator) -> list[list[int]]:
    """Choices of each group that are measured: the same everywhere, then as many that are drawn."""
    drawn = torch.randint(choices, (choices + 1, groups), generator=generator).tolist()
    return [[choice] * groups for choice in range(choices)] + drawn


def fitted_latency(
    make: Callable[[list[int]], tuple[nn.Module, Sequence[float]]],
    groups: int,
    choices: int,
    inputs: Any,
    device: torch.device,
) -> Tensor:
    """The coefficients of a network's latency. make: a choice for each group -> (the network by itself, its features)."""
    made = [make(chosen) for chosen in settings(groups, choices, torch.Generator().manual_seed(0))]
    return coefficients([features for _, features in made], measured([network for network, _ in made], inputs, device))
