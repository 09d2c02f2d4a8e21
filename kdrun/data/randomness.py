"""Counter-based random numbers: a function of (keys, sample id) alone, so that no batch, rank, thread or library
version changes them. The mixing function is that of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""

from __future__ import annotations

import hashlib
import math

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def key(*parts: int | str) -> int:
    """One 64-bit key from seeds, epochs and words for the purpose: `key("order", seed, epoch)`."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def bits(key: int, ids: np.ndarray) -> np.ndarray:
    """uint64 [n]: 64 random bits for every id (int64 [n]) under this key."""
    state = np.bitwise_xor(_mix(ids.astype(np.int64, copy=False).view(np.uint64)), np.uint64(key))
    return _mix(state)


def normals(ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """float32 [n, count], standard normal (Box and Muller 1958), a function of (seed, sample id, position)."""
    own = bits(key("corruption", seed), ids)
    keys = (own[:, None] + np.arange(count, dtype=np.uint64)).view(np.int64)
    drawn = bits(key("corruption of a pixel", seed), keys)
    radius = np.sqrt(-2 * np.log(((drawn >> np.uint64(32)).astype(np.float64) + 1) * 2.0**-32))
    angle = 2 * math.pi * 2.0**-32 * (drawn & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return (radius * np.cos(angle)).astype(np.float32)


def order(key: int, ids: np.ndarray) -> np.ndarray:
    """int64 [n]: positions of `ids` in random order. Two sets of ids agree on the order of what they share."""
    return np.argsort(bits(key, ids), kind="stable")


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + _GOLDEN
    state = (state ^ (state >> _30)) * _FIRST
    state = (state ^ (state >> _27)) * _SECOND
    return state ^ (state >> _31)
