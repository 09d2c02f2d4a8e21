"""How a network sees samples: what its weights file says of normalisation, tokenizer, size and labels, held against data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.problems import UserError

TOLERANCE = 1e-4
"""Largest difference of two means or deviations that are taken for the same."""
Moments = dict[str, list[float]]
"""{"mean", "std"}: one number for each channel, or each feature of a table."""


def moments_of(source: Any) -> Moments | None:
    """Mean and deviation that inputs are normalised with: of a spec, of the metadata of a weights file, or of `normalize` in a
    config; None where there are none."""
    if source is None:
        return None
    get = source.get if isinstance(source, Mapping) else lambda name: getattr(source, name, None)
    mean, std = get("mean"), get("std")
    return None if mean is None or std is None else {"mean": list(map(float, mean)), "std": list(map(float, std))}


def same(one: Moments, other: Moments) -> bool:
    """Whether inputs are normalised alike."""
    pairs = [(one[name], other[name]) for name in ("mean", "std")]
    return all(len(a) == len(b) and all(abs(x - y) <= TOLERANCE for x, y in zip(a, b, strict=True)) for a, b in pairs)


def shown(moments: Moments) -> str:
    """`{mean: [0.5], std: [0.25]}`, as it is typed."""
    return f"{{mean: {_numbers(moments['mean'])}, std: {_numbers(moments['std'])}}}"


def typed(key: str, moments: Moments) -> str:
    """The word of a command line that sets the normalisation at `key`."""
    return f"'{key}={shown(moments)}'"


def check_data(
    metadata: Mapping[str, Any], spec: Any, path: Path, *, any_normalisation: bool = False, as_trained: bool = False
) -> None:
    """Raises UserError where a weights file's metadata are not of such data (see weights.load_weights)."""
    spec.check(metadata, path, as_trained)
    theirs, ours = moments_of(metadata), moments_of(spec)
    if any_normalisation or theirs is None or ours is None or same(theirs, ours):
        return
    raise UserError(
        f"{path} was trained on inputs with mean {_numbers(theirs['mean'])} and std {_numbers(theirs['std'])}, "
        f"{spec.name} has {_numbers(ours['mean'])} and {_numbers(ours['std'])}; to train on as before:",
        typed("data.normalize", theirs),
    )


def _numbers(values: Any) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
