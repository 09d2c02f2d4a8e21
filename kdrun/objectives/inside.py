"""Losses on the inside of networks that read a sequence and say one thing of it: means over the positions that are no padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kdrun.objectives.objective_term import Term

INSIDE = "inside"
"""Tensor of a task with one output for each sample: bool [B, L], which positions of what networks read are no padding."""


def inside_of(term: Term, tensors: Mapping[str, Any]) -> torch.Tensor | None:
    """Which positions of what a term captured count, bool [B, L]; None where it is not told, what is captured is not [B, L, ...], or the
    term neither looks at single positions (Term.pointwise) nor takes a mask."""
    inside = tensors.get(INSIDE)
    if inside is None or term.pairs is None or not (term.pointwise or "mask" in (*term.wants, *term.may_want)):
        return None
    captured = [x for part in tensors["captured"][term.name] for x in part]
    return inside if all(x.shape[:2] == inside.shape for x in captured) else None


def mean_inside(term: Term, tensors: Mapping[str, Any], inside: torch.Tensor) -> torch.Tensor:
    """float32 [B]: the mean of the term's values over the positions of each sample that count, at the others it sees nothing."""
    both = tensors["captured"][term.name]
    given = {name: tensor for name, tensor in tensors.items() if name in ("step", "epoch")}
    if term.pointwise:
        captured = tuple([_wide(x[inside]) for x in part] for part in both)
        values = torch.zeros(inside.shape, device=inside.device)
        values = values.index_put((inside,), term({**given, "captured": captured}, torch.Size([int(inside.sum())])))
    else:
        captured = tuple([_wide(torch.where(inside[..., None], x, 0.0)) for x in part] for part in both)
        values = term({**given, "mask": inside, "captured": captured}, inside.shape)
        values = torch.where(inside, values, 0.0)
    return values.sum(1) / inside.sum(1).clamp(min=1)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
