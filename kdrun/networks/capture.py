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
    """Gives a list in which every call of the `classifier` in here leaves a copy of its input: float [B, D].

    A copy, since a network may go on by changing the tensor in place (ReLU with inplace=True, `add_`).
    """
    calls: list[torch.Tensor] = []

    def keep(_: nn.Module, given: tuple, named: dict) -> None:
        calls.append((given[0] if given else named["input"]).clone())

    handle = classifier(network).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def only_call(network: nn.Module, calls: list[torch.Tensor]) -> torch.Tensor:
    """The features [B, D] of one forward pass, from what `captured` gave.

    Raises UserError where the pass did not use the classifier once, or gave it anything else than [B, D]: it would not be
    known which of several inputs the features are.
    """
    shapes = [tuple(call.shape) for call in calls]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise UserError(
            f"the features of {type(network).__name__} are what its last linear layer is given, [B, D]; "
            f"that layer was given {' and '.join(map(str, shapes)) or 'nothing'}"
            f" in a pass in {'training' if network.training else 'evaluation'} mode"
        )
    return calls[0]
