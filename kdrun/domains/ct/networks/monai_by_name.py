"""Networks of MONAI by their names, fitted to the data and built without any download."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import torch
from torch import nn

from kdrun.ledger.flops import on_meta
from kdrun.networks.encoder import logit_count
from kdrun.networks.folders import refuse_download
from kdrun.networks.output import logits_of
from kdrun.optional import needed
from kdrun.problems import UserError, closest

SEMANTICS = 1

TARGETS = ("monai",)

CHANNELS = ("in_channels", "n_input_channels")
OUTPUTS = ("num_classes", "out_channels", "classes")


def monai(
    architecture: str,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int | tuple[int, ...] = 32,
    **options: Any,
) -> nn.Module:
    """Any classifier of monai.networks.nets with random weights, such as SEResNet50, DenseNet121 or ViT.

    options go to the class. What it needs to know of the data (spatial_dims, in_channels, num_classes, img_size ... as its
    signature calls them) is set where the options leave it out; `spatial_dims` tells a cube from a square image. Two
    classes have one logit (`encoder.logit_count`); `out_channels` or the like among the options says otherwise.
    forward: float [B, C, H, W] or [B, C, D, H, W] -> logits, as a tensor or first of a tuple.
    Raises UserError where MONAI is absent, has no such network, or the network is no classifier.
    """
    needed("monai", f"{architecture} needs MONAI")
    nets = import_module("monai.networks.nets")
    known = {key for key, found in vars(nets).items() if inspect.isclass(found) and issubclass(found, nn.Module)}
    if architecture not in known:
        own = {getattr(nets, key).__name__ for key in known}  # many have several spellings
        raise UserError(f"MONAI has no network {architecture!r}{closest(architecture, sorted(own))}")
    refuse_download(options, architecture)
    make = getattr(nets, architecture)
    accepted = _arguments(make)
    for key in options:
        if key not in accepted:
            raise UserError(f"{architecture} of MONAI has no option {key!r}{closest(key, accepted)}")
    if not accepted & set(OUTPUTS):
        raise UserError(f"{architecture} of MONAI is no classifier: it takes no number of classes")
    square = isinstance(image_size, int)
    sides = [image_size] * options.get("spatial_dims", 2) if square else list(image_size)
    from_data = {
        "spatial_dims": len(sides),
        **dict.fromkeys(CHANNELS, in_channels),
        **dict.fromkeys(OUTPUTS, logit_count(num_classes)),
        "img_size": sides,
        "in_shape": [in_channels, *sides],
        "classification": True,  # vision transformers: a token and a layer for the class, and
        "post_activation": None,  # no tanh over the logits
    }
    try:
        network = make(**{**{key: value for key, value in from_data.items() if key in accepted}, **options})
    except ImportError as error:  # MONAI's own kind, on first use of an optional package
        raise UserError(f"{architecture} of MONAI needs a further package", str(error).splitlines()[0]) from error
    _refuse_maps(network, architecture, (in_channels, *sides))
    return network


def _arguments(network_class: type) -> set[str]:
    """Names of all arguments, also of those that **kwargs hand on to a base class."""
    found: set[str] = set()
    for base in network_class.__mro__:
        if base is nn.Module:
            break
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base).parameters.values()
        found |= {one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
        if all(one.kind != one.VAR_KEYWORD for one in parameters):
            break
    return found


def _refuse_maps(network: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Raises UserError where the output is no row of logits. Shapes alone are computed, on the meta device; of a network
    that cannot run there nothing is said here."""
    try:
        with torch.no_grad():
            logits = logits_of(on_meta(network).eval()(torch.empty(2, *shape, device="meta")))
    except Exception:  # any network of a library; the check of the real forward pass says what is wrong
        return
    if logits.ndim != 2:
        raise UserError(
            f"{name} of MONAI is no classifier: for 2 images of shape {shape} it gives {tuple(logits.shape)}",
            "classifiers are SEResNet50, DenseNet121, ResNet, EfficientNetBN, ViT and others",
        )
