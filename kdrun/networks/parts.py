"""Which parts of a network train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from kdrun.problems import UserError, closest, listed


def parts_of(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name of a part -> the modules it is made of: as the network says in `parts`, else its children."""
    said = getattr(network, "parts", None)
    named = said if isinstance(said, Mapping) else {name: name for name, _ in network.named_children()}
    return {name: (where,) if isinstance(where, str) else tuple(where) for name, where in named.items()}


def select_parts(network: nn.Module, parts: Sequence[str] | None) -> None:
    """Freezes every parameter outside these parts, and marks every module outside as `held` (see modes.hold_frozen).

    None changes nothing. What a network froze itself stays frozen.

    Raises UserError for a part that the network does not have, or where nothing is left to train.
    """
    if parts is None:
        return
    known = parts_of(network)
    for name in parts:
        if name not in known:
            raise UserError(
                f"trainer.parts: {type(network).__name__} has no part {name!r}{closest(name, known)}",
                f"it has: {listed(known)}",
            )
    prefixes = tuple(f"{module}." for name in parts for module in known[name])
    for name, parameter in network.named_parameters():
        if not name.startswith(prefixes):
            parameter.requires_grad_(False)
    for name, module in network.named_modules():
        if name and not f"{name}.".startswith(prefixes):
            module.held = True
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"trainer.parts={list(parts)}: nothing in them trains")
