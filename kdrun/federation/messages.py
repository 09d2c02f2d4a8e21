"""What travels between clients and server: named arrays and plain numbers, nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

Arrays = Mapping[str, np.ndarray]
Expected = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""name -> (shape, dtype) that an array must have."""


@dataclass(frozen=True)
class Broadcast:
    """What the server tells a client at the start of a round (0-based)."""

    round: int
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """What a client answers.

    arrays   what the method exchanges: weights of a proxy or of the shared model, or predictions on public samples
    samples  training samples of the client, by which averages are weighted
    metrics  means over the round's work
    """

    arrays: Arrays
    samples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def size(message: Update | Broadcast) -> int:
    """Bytes of a message: its arrays as a safetensors file has them, with names and shapes, and its numbers as JSON.

    0 for a message without arrays: a method that exchanges nothing sends none.
    """
    if not message.arrays:
        return 0
    signature = tuple((name, array.shape, str(array.dtype)) for name, array in message.arrays.items())
    numbers = {"round": message.round} if isinstance(message, Broadcast) else {"samples": message.samples}
    numbers |= {} if isinstance(message, Broadcast) else dict(message.metrics)
    return _file_bytes(signature) + len(json.dumps(numbers))


@lru_cache(maxsize=256)
def _file_bytes(signature: tuple) -> int:
    """Length of the safetensors file of arrays with these names, shapes and types; values do not change it."""
    from safetensors.numpy import save

    return len(save({name: np.zeros(shape, dtype) for name, shape, dtype in signature}))


def form(arrays: Arrays) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The names, shapes and types that an answer to these arrays must have."""
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def refusal(update: Update, expected: Expected) -> str | None:
    """Why an update cannot be used, in words, or None: wrong names, shapes or types, numbers that are not finite.

    Of several reasons the first by name: the order of arrays is not the same in a message and in a file.
    """
    if missing := sorted(name for name in expected if name not in update.arrays):
        return f"{missing[0]} is missing"
    if extra := sorted(name for name in update.arrays if name not in expected):
        return f"{extra[0]} is not expected"
    for name, (shape, dtype) in sorted(expected.items()):
        array = update.arrays[name]
        if tuple(array.shape) != tuple(shape):
            return f"{name} has the shape {tuple(array.shape)}, expected {tuple(shape)}"
        if array.dtype != dtype:
            return f"{name} is {array.dtype}, expected {dtype}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} is not finite"
    if not (isinstance(update.samples, int) and update.samples >= 0):
        return f"samples is {update.samples!r}, expected a count"
    if not expected and update.samples == 0:
        return None
    return None if update.samples else "it was learned from no samples"
