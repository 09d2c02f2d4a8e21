"""Parameters with an optimizer's settings of their own: `trainer.groups`, and the parameter groups that torch makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from kdrun import targets
from kdrun.networks.parts import parts_of
from kdrun.problems import UserError, closest, listed

NORMS_AND_BIASES = "norms_and_biases"
"""The group of all parameters of at most one dimension: weights and biases of norms, biases of other layers."""
Groups = Mapping[str, Mapping[str, Any]]


def make_optimizer(
    trainer: Mapping[str, Any], parameters: Sequence[nn.Parameter], student: nn.Module, beside: Mapping[str, nn.Module]
) -> torch.optim.Optimizer:
    """The optimizer of a trainer for these parameters of the student and of what trains beside it (modules by name)."""
    groups = trainer.get("groups") or {}
    check_groups(trainer, [student])
    params = parameter_groups(parameters, student, groups, beside) if groups else parameters
    return with_factors(targets.build(trainer["optimizer"], "optimizer", params=params))


def passes_of(trainer: Mapping[str, Any]) -> int:
    """Gradients that a step of a trainer's optimizer computes: 2 of SAM; 1 where it does not say."""
    return getattr(targets.locate(trainer["optimizer"]["_target_"], "optimizer"), "passes", 1)


def parameter_groups(
    parameters: Iterable[nn.Parameter],
    network: nn.Module,
    groups: Groups,
    beside: Mapping[str, nn.Module] | None = None,
) -> list[dict[str, Any]]:
    """The parameters as groups of a torch optimizer: {"params", and of "lr", "factor", "weight_decay" what differs from the
    optimizer's}. Those without settings of their own come first, others in the order of the network.

    beside: modules that train along; their parameters are called `NAME.` and as the module calls them. A parameter in several
    groups has the settings of all. Raises UserError where two of them differ in one.
    """
    names = {id(parameter): name for name, parameter in _named(network, beside or {})}
    wanted = {name: _matcher(network, name, node) for name, node in groups.items()}
    found: dict[tuple, list[nn.Parameter]] = {(): []}
    for parameter in parameters:
        name, settings, by = names[id(parameter)], {}, {}
        for group, node in groups.items():
            if not wanted[group](name, parameter):
                continue
            for key, value in _settings(group, node).items():
                rate = "weight_decay" if key == "weight_decay" else "rate"
                if rate in by and settings.get(key) != value:
                    raise UserError(
                        f"trainer.groups.{group}.{key} and trainer.groups.{by[rate]} differ for {name}, which is in both groups",
                        "let one of them name other parameters",
                    )
                by[rate], settings[key] = group, value
        found.setdefault(tuple(sorted(settings.items())), []).append(parameter)
    return [{"params": params, **dict(settings)} for settings, params in found.items() if params]


def with_factors(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer with the rate of each group multiplied by its `factor`, which is then no longer in the group."""
    for group in optimizer.param_groups:
        if (factor := group.pop("factor", None)) is not None:
            group["lr"] = group["lr"] * factor
    return optimizer


def check_groups(trainer: Mapping[str, Any], networks: Sequence[nn.Module]) -> None:
    """Raises UserError for a group that names no parameter of any of the networks, with the nearest names, that sets nothing, or
    that contradicts another."""
    groups = trainer.get("groups") or {}
    for name, node in groups.items():
        _settings(name, node)
        matchers = [(network, _matcher(network, name, node)) for network in networks]
        if not any(matches(*pair) for network, matches in matchers for pair in network.named_parameters()):
            _refuse(name, _pattern(name, node), networks)
    for network in networks if groups else ():
        parameter_groups(network.parameters(), network, groups)


def check_optimizer(optimizer: torch.optim.Optimizer, node: Mapping[str, Any], groups: Groups) -> None:
    """Raises UserError for a setting of a group that the optimizer does not have."""
    for name, group in groups.items():
        if group.get("weight_decay") is not None and "weight_decay" not in optimizer.defaults:
            raise UserError(f"trainer.groups.{name}.weight_decay: {node['_target_']} has no weight_decay")


def _named(network: nn.Module, beside: Mapping[str, nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    yield from network.named_parameters()
    for name, module in beside.items():
        yield from ((f"{name}.{below}", parameter) for below, parameter in module.named_parameters())


def _pattern(name: str, node: Mapping[str, Any]) -> str:
    return node.get("parameters") or name


def _matcher(network: nn.Module, name: str, node: Mapping[str, Any]) -> Any:
    """(name of a parameter, parameter) -> whether it is in the group: NORMS_AND_BIASES, a part of the network, a glob."""
    pattern = _pattern(name, node)
    if pattern == NORMS_AND_BIASES:
        return lambda name, parameter: parameter.ndim <= 1
    modules = parts_of(network).get(pattern)
    if modules is None:
        return lambda name, parameter: fnmatchcase(name, pattern)
    prefixes = tuple(f"{module}." for module in modules)
    return lambda name, parameter: name.startswith(prefixes)


def _settings(name: str, node: Mapping[str, Any]) -> dict[str, float]:
    settings = {key: node[key] for key in ("lr", "factor", "weight_decay") if node.get(key) is not None}
    if not settings:
        raise UserError(
            f"trainer.groups.{name} sets nothing: give lr, factor (of the optimizer's rate) or weight_decay"
        )
    if "lr" in settings and "factor" in settings:
        raise UserError(f"trainer.groups.{name}: give either lr or factor, which multiplies that of the optimizer")
    return settings


def _refuse(name: str, pattern: str, networks: Sequence[nn.Module]) -> None:
    parts = list(dict.fromkeys(part for network in networks for part in parts_of(network)))
    names = list(dict.fromkeys(each for network in networks for each, _ in network.named_parameters()))
    near = closest(pattern.strip("*"), [*parts, NORMS_AND_BIASES, *names])
    key = f"trainer.groups.{name}"
    raise UserError(
        f"{key}: {' and '.join(dict.fromkeys(type(each).__name__ for each in networks))} has no parameters {pattern!r}{near}",
        f"its parts: {listed(parts, 12)}; or a glob over names such as {names[-1]}: '{key}.parameters=\"*{names[-1].rpartition('.')[2]}\"'",
    )
