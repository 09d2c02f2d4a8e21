"""What a network computes on the way: before its last layer, and what any of its modules gives."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kdrun.problems import UserError, listed

Result = TypeVar("Result")


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
    layer = classifier(network)
    each = of_samples(network, layer)

    def keep(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append(each(given[0] if given else named["input"]).clone())

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def of_samples(network: nn.Module, module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """How a tensor of a module becomes one row for each sample: by `of_samples` of the module of the network around it that runs what is
    inside on more rows than samples (networks.spiking.Spiking); unchanged where there is none."""
    for around in network.modules():
        if around is not module and hasattr(around, "of_samples") and any(part is module for part in around.modules()):
            return cast("Callable[[torch.Tensor], torch.Tensor]", around.of_samples)
    return lambda tensor: tensor


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


OUTPUT = "output:"
"""What begins the name of something that the task gives (`output:logits`), as opposed to the path of a module."""
BEFORE = "before:"
"""What begins a path whose module ends with an activation, of which the input is captured (`before:stage3`)."""
ACTIVATIONS = {
    *(functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_),
    *(functional.leaky_relu, functional.leaky_relu_, functional.relu6, functional.hardswish),
    *(functional.gelu, functional.silu),
}


SLICE = re.compile(r"\[(-?\d*):(-?\d*)(?::(-?\d*))?\]")


def _expanded(module: nn.Module, parts: list[str]) -> list[str]:
    """Paths below a module that the parts of a pattern name."""
    names = [name for name, _ in module.named_children()]
    if re.fullmatch(r"-\d+", parts[0]):
        chosen = names[int(parts[0]) :][:1] if -int(parts[0]) <= len(names) else []
    elif found := SLICE.fullmatch(parts[0]):
        chosen = names[slice(*(int(number) if number else None for number in found.groups()))]
    else:
        chosen = [name for name in names if fnmatchcase(name, parts[0])]
    if len(parts) == 1:
        return chosen
    return [f"{name}.{below}" for name in chosen for below in _expanded(module.get_submodule(name), parts[1:])]


class LastActivation(TorchFunctionMode):
    """Remembers what the last activation in here was given and gave, until the next one."""

    before: torch.Tensor
    after: Any = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in ACTIVATIONS:
            return function(*args, **kwargs)
        given = args[0] if args else kwargs["input"]
        kept = given.clone() if kwargs.get("inplace") or True in args[1:] or function.__name__.endswith("_") else given
        self.after = function(*args, **kwargs)
        self.before = kept
        return self.after

    def input_of(self, output: torch.Tensor) -> torch.Tensor:
        """What was given to the activation that gave this; the output itself where none did."""
        return self.before if self.after is output else output


def matching(network: nn.Module, pattern: str, key: str = "") -> list[str]:
    """Paths of the modules of a network that a path or a glob names, in its order.

    In a glob (`blocks.*.norm`) a star stands for a part of one name, `-1` for the last module of those in its place, and `[2::3]` for every
    third of them from the third on, as in Python. key: of the config, for the message.
    Raises UserError with the nearest paths where there are none.
    """
    names = [name for name, _ in network.named_modules() if name]
    matches = [name for name in _expanded(network, pattern.split(".")) if name in names]
    if not matches:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
        top = [name for name, _ in network.named_children()]
        raise UserError(
            f"{key + '=' if key else ''}{pattern}: {type(network).__name__} has no module of this path"
            + (f"; closest: {', '.join(near)}" if near else ""),
            f"its modules: {listed(top, 12)}",
        )
    return matches


class Capture:
    """What modules of an untouched network give in a forward pass, by hooks that are there during the pass only.

    patterns: path or glob, perhaps after `before:`, -> key of the config that names it (see `matching`); of one that names several
    modules, all are captured. Raises UserError for a path that the network
    lacks, and for a network that was compiled: its compiled code calls no hooks.
    """

    def __init__(self, network: nn.Module, patterns: Mapping[str, str]):
        self.network = network
        self.paths = {
            pattern: matching(network, pattern.removeprefix(BEFORE), key) for pattern, key in patterns.items()
        }
        if any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in network.modules()):
            raise UserError(
                f"{type(network).__name__} is compiled, and compiled code leaves out what captures its modules",
                "leave torch.compile out, or compare logits",
            )

    def of(self, forward: Callable[[], Result]) -> tuple[Result, dict[str, list[torch.Tensor]]]:
        """(what `forward` returns, {pattern: what each of its modules gave}), for one pass through the network.

        Each is a copy, since a network may go on by changing it in place. Raises UserError where a module was called twice or
        not at all, gave no tensor, or ran where no gradient can come from.
        """
        kinds = {pattern: BEFORE if pattern.startswith(BEFORE) else "" for pattern in self.paths}
        calls: dict[tuple[str, str], list[torch.Tensor]] = {
            (kinds[pattern], path): [] for pattern, paths in self.paths.items() for path in paths
        }
        learning, activation = torch.is_grad_enabled(), LastActivation()
        modules = dict(self.network.named_modules())

        def keep(before: str, path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            each = of_samples(self.network, modules[path])

            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                if learning and not torch.is_grad_enabled():
                    raise UserError(
                        f"{path} of {type(self.network).__name__} runs without gradients: in activation checkpointing, give "
                        "use_reentrant=False"
                    )
                tensor = first_tensor(output, path)
                calls[before, path].append(each(activation.input_of(tensor) if before else tensor).clone())

            return hook

        handles = [modules[path].register_forward_hook(keep(before, path)) for before, path in calls]
        try:
            with activation if any(before for before, _ in calls) else nullcontext():
                result = forward()
        finally:
            for handle in handles:
                handle.remove()
        for (_, path), given in calls.items():
            if len(given) != 1:
                raise UserError(
                    f"{path} of {type(self.network).__name__} was called {len(given)} times in a forward pass; what is captured "
                    "is called once"
                )
        return result, {
            pattern: [calls[kinds[pattern], path][0] for path in paths] for pattern, paths in self.paths.items()
        }


def first_tensor(output: Any, path: str) -> torch.Tensor:
    """The tensor in what a module gave: itself, or the first of a tuple, a list or a mapping (an output of transformers)."""
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else [output]
    for part in parts:
        if isinstance(part, torch.Tensor):
            return part
    raise UserError(f"{path} gives a {type(output).__name__} without a tensor, which cannot be captured")
