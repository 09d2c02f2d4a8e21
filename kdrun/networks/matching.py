"""Whether tensors from a file fit a network: names, shapes, values; and what to tell a person when they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from kdrun.problems import UserError

# What wrappers put before names: DataParallel and DDP, torch.compile, FSDP, weight averages, LightningModules.
PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "network.", "net.", "student.")


def without_prefix(
    tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors, and the wrapper's prefix that was removed: only one that all names carry, and only if needed.

    `n_averaged`, the counter beside an averaged network, is no weight and is dropped with the prefix.
    """
    names = {name: name for name in tensors if name != "n_averaged" or name in own}
    removed = ""
    while not set(names.values()) & set(own):
        prefix = next((p for p in PREFIXES if names and all(name.startswith(p) for name in names.values())), None)
        if prefix is None:
            return dict(tensors), ""
        names = {old: new[len(prefix) :] for old, new in names.items()}
        removed += prefix
    if not removed:
        return dict(tensors), ""
    return {new: tensors[old] for old, new in names.items()}, removed


def check_keys(tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: Path, network: str) -> None:
    """Raises UserError unless names and shapes are exactly the network's."""
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    lines = []
    if missing:
        lines.append(f"missing {len(missing)} of {len(own)}: {_first(missing)}")
    if unexpected:
        lines.append(f"unexpected {len(unexpected)} of {len(tensors)}: {_first(unexpected)}")
    if lines:
        for prefix in PREFIXES:
            carrying = [name for name in unexpected if name.startswith(prefix)]
            if carrying and {name[len(prefix) :] for name in carrying} & set(own):
                lines.append(
                    f"{len(carrying)} of {len(tensors)} names carry the prefix {prefix!r}, removed only where all do"
                )
                break
        raise UserError(f"{path} does not fit {network}", *lines)
    wrong = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise UserError(f"{path} does not fit {network}: {len(wrong)} shapes differ", _first(wrong))


def check_values(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raises UserError for weights that cannot have been trained: not finite, or zeros throughout."""
    weights = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    broken = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise UserError(f"{path} holds NaN or infinite values in {len(broken)} tensors: {_first(broken)}")
    matrices = [tensor for tensor in weights.values() if tensor.dim() >= 2] or list(weights.values())
    if matrices and not any(bool(tensor.any()) for tensor in matrices):
        raise UserError(f"{path} holds nothing but zeros: these are no trained weights")


def _first(items: Iterable[str], number: int = 3) -> str:
    items = list(items)
    return ", ".join(items[:number]) + (" ..." if len(items) > number else "")
