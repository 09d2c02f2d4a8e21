"""What networks for several views or slices share: an encoder made from a config node, and how many logits classes need."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdrun import targets
from kdrun.networks.capture import classifier
from kdrun.networks.names import classified


def logit_count(classes: int) -> int:
    """One logit o tells two classes apart: it stands for the pair (0, o), whose cross-entropy is the binary one."""
    return 1 if classes == 2 else classes


def encoder(
    make: Mapping[str, Any] | Callable[..., nn.Module],
    num_classes: int,
    in_channels: int,
    image_size: int | tuple[int, ...],
) -> tuple[nn.Module, int]:
    """A new classifier without the layer that makes logits (`capture.classifier`), and the number of features of it.

    make: a target node, or what a node with `_partial_: true` gives. Classes, channels and image size are supplied
    where it has parameters for them that the node leaves out.
    Raises ValueError where `make` is a network already built or gives none, UserError where that has no linear layer.
    """
    if isinstance(make, nn.Module):
        raise ValueError(f"encoder is one {type(make).__name__}, and several may be needed: add _partial_: true to it")
    if isinstance(make, Mapping):
        make = targets.build({**make, "_partial_": True}, "network")
    known = classified(num_classes, in_channels, image_size)
    given = getattr(make, "keywords", {})
    accepted = inspect.signature(make).parameters
    network = make(**{name: value for name, value in known.items() if name in accepted and name not in given})
    if not isinstance(network, nn.Module):
        raise ValueError(f"encoder gave a {type(network).__name__}, expected a torch.nn.Module")
    last = classifier(network)
    parent, _, name = next(name for name, module in network.named_modules() if module is last).rpartition(".")
    if not name:
        raise ValueError("encoder is a linear layer and nothing else: it has no features")
    setattr(network.get_submodule(parent), name, nn.Identity())
    return network, last.in_features
