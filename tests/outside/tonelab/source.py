"""A source of tones: sine waves of a few pitches with noise, the same for the same seed."""

import hashlib
from dataclasses import dataclass

import numpy as np

from kdrun.data.source import ArraySource, check_columns

RATE = 8000
"""Samples of a second."""


@dataclass
class Waveforms(ArraySource):
    """x: float32 [N, 1, T], in -1..1 but for noise; y: int64 [N], positions in classes."""

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    name: str
    source_hash: str
    determined: bool = True

    def __post_init__(self) -> None:
        check_columns(self, len(self.x), y=np.int64)


def tones(count: int = 400, pitches: int = 16, length: int = 2000, noise: float = 0.3, seed: int = 0) -> Waveforms:
    """`count` waveforms of half tones above 220 Hz, each with a phase of its own."""
    random = np.random.default_rng(seed)
    targets = np.arange(count, dtype=np.int64) % pitches
    frequencies = 220 * 2 ** (targets / 12)
    phases = random.uniform(0, 2 * np.pi, (count, 1))
    waves = np.sin(2 * np.pi * frequencies[:, None] * np.arange(length) / RATE + phases)
    waves = (waves + noise * random.standard_normal(waves.shape)).astype(np.float32)[:, None]
    digest = hashlib.sha256(f"{count} {pitches} {length} {noise} {seed}".encode()).hexdigest()
    names = tuple(f"{220 * 2 ** (pitch / 12):.0f} Hz" for pitch in range(pitches))
    return Waveforms(waves, targets, np.zeros(count, np.int8), np.arange(count), names, "tones", digest)
