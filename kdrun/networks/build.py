"""From a network's config node to a network that fits the data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy
import torch
from torch import nn

from kdrun import targets
from kdrun.networks.modes import evaluating
from kdrun.networks.names import CLASSES, VOCABULARY
from kdrun.networks.output import called, logits_of
from kdrun.problems import UserError

T = TypeVar("T")


def build_network(node: Mapping[str, Any], spec: Any, seed: int) -> nn.Module:
    """The network of a target node, on CPU and in training mode; its weights are a function of (node, seed) alone.

    What the data know (Spec.arguments: number of classes, of channels, the image size ...) is taken from them wherever the target
    has a parameter of that name that the config leaves out. The random states of torch, numpy and Python are as before afterwards.

    Raises UserError where the config contradicts the data, the target cannot be built with these arguments, or one
    forward pass on two blank samples of the real shape fails or does not give outputs of the right shape.
    """
    target = node["_target_"]
    known = data_arguments(node, spec)
    own = {key: value for key, value in node.items() if key not in known}
    with seeded(seed):
        try:
            network = targets.build(own, "network", **known)
        except (TypeError, ValueError) as error:
            given = ", ".join(f"{key}={value}" for key, value in own.items() if key != "_target_")
            raise UserError(f"cannot build {target}: {error}", f"its arguments: {given or 'none'}") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{target} gave a {type(network).__name__}, expected a torch.nn.Module")
        check_forward(network, target, spec)
    return network.train()


def of_shapes(node: Mapping[str, Any], spec: Any, ask: Callable[[nn.Module], T]) -> T:
    """What `ask` says of the network of a node, of which it looks at shapes alone: without memory for weights where its code allows that."""
    try:
        with torch.device("meta"):
            network = build_network(node, spec, 0)
        return ask(network)
    except Exception:  # perhaps the meta device alone is at fault: the real one tells
        return ask(build_network(node, spec, 0))


def to_be_loaded(node: Mapping[str, Any], spec: Any) -> nn.Module:
    """The network of a node for a weights file that has all its values: on the meta device where that is so, for load_weights then gives it the
    tensors of the file, and nothing is in memory twice; else as `build_network`."""
    try:
        with torch.device("meta"):
            network = build_network(node, spec, 0)
    except Exception:  # perhaps the meta device alone is at fault
        return build_network(node, spec, 0)
    return network if _all_in_file(network) else build_network(node, spec, 0)


def _all_in_file(network: nn.Module) -> bool:
    """Whether a state dict has every value of a network: no buffer that is not kept, no tensor that is a plain attribute, nothing that is
    shared, and no state that it makes itself of what a file has (networks.compressed, networks.elastic)."""
    if hasattr(network, "adopt") or hasattr(network, "calibrate"):
        return False
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    shared = len(names) > len(list(network.named_parameters()))
    buffers = {name for name, _ in network.named_buffers()}
    plain = any(torch.is_tensor(value) for part in network.modules() for value in vars(part).values())
    return not shared and not plain and buffers <= network.state_dict().keys()


def data_arguments(node: Mapping[str, Any], spec: Any) -> dict[str, Any]:
    """What a network may ask for and only the data know, without what the node sets itself.

    Raises UserError where the node sets a number of classes that is not the data's.
    """
    known = spec.arguments()
    for name in CLASSES:
        if name in known and node.get(name) not in (None, known[name]) and not (spec.binary and node[name] == 1):
            raise UserError(
                f"{node['_target_']}: {name}={node[name]}, but {spec.name} has {known[name]} {spec.says}",
                f"leave {name} out: it is taken from the data",
            )
    return {name: value for name, value in known.items() if node.get(name) is None}


def check_forward(network: nn.Module, target: str, spec: Any) -> None:
    """One forward pass in eval mode, so that batch-norm statistics stay as they are; modes are put back.

    Raises UserError with what went wrong.
    """
    blank = spec.blank()
    inputs, what = blank.inputs, blank.what
    try:
        with torch.no_grad(), evaluating(network):
            logits = logits_of(called(network, inputs))
    except UserError:  # of the network itself, which knows more
        raise
    except Exception as error:  # whatever a network raises on a shape it was not made for
        first = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{target} does not run on {what} ({spec.name})",
            f"{type(error).__name__}: {first}",
        ) from error
    if logits.shape != blank.shape and not (spec.binary and logits.shape == (2, 1)):
        names = VOCABULARY if spec.per_position else CLASSES
        raise UserError(
            f"{target} gives {tuple(logits.shape)} for 2 {what.split()[0]}, expected {blank.shape}: "
            f"{spec.name} has {blank.shape[-1]} {spec.says}",
            f"give it a parameter named {' or '.join(names)} and kdrun sets it from the data",
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random states of torch (CPU), numpy and Python set to `seed` inside, as they were outside."""
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, whose state is not put back here.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
