"""What a network computes before its last layer: the features that feature distillation compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from kdrun.problems import UserError


def classifier(network: nn.Module) -> nn.Module:
    """The layer that makes the logits of features: the network's `classifier` or `head` if it is linear, else its last
    linear layer.

    Raises UserError for a network that has none.
    """
    layers = [part for part in network.modules() if isinstance(part, nn.Linear)]
    for name in ("classifier", "head"):
        found = getattr(network, name, None)
        if isinstance(found, nn.Linear):
            return found
    if not layers:
        raise UserError(
            f"{type(network).__name__} has no linear layer, so it is not known what its features are",
            "let it call the layer that makes the logits `classifier` or `head` (torch.nn.Linear)",
        )
    return layers[-1]


@contextmanager
def captured(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Gives a list in which every forward pass in here leaves the input of the `classifier`: float [B, D]."""
    found: list[torch.Tensor] = []
    handle = classifier(network).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        handle.remove()
