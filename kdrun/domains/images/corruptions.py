"""Corrupted test inputs at five levels each, the same for every network: a function of (seed, sample id) alone.

After the benchmarks of Hendrycks and Dietterich (2019, arXiv 1903.12261), with constants of our own that hold for images of any
size. Pixels are in 0..1 before and after; what leaves that range is cut off.

    noise       x + s z, z standard normal per pixel and channel, one z for all levels    s = 0.04, 0.08, 0.12, 0.18, 0.26
    blur        Gaussian, deviation as a share of the shorter side, edges mirrored        0.0125, 0.02, 0.03, 0.045, 0.06
    brightness  x + b                                                                     b = 0.1, 0.2, 0.3, 0.4, 0.5
    contrast    m + c (x - m), m the mean of the channel in this image                    c = 0.8, 0.6, 0.45, 0.3, 0.2

Numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType

import numpy as np

from kdrun.data.randomness import normals

NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)
BLUR = (0.0125, 0.02, 0.03, 0.045, 0.06)
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
CONTRAST = (0.8, 0.6, 0.45, 0.3, 0.2)
REACH = 4.0
"""Deviations after which the kernel of the blur ends."""

Corruption = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]


def noise(pixels: np.ndarray, ids: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """x + deviation * z."""
    return pixels + np.float32(deviation) * normals(ids, pixels[0].size, seed).reshape(pixels.shape)


def blur(pixels: np.ndarray, ids: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Gaussian with a deviation of `share` of the shorter side, along one axis after the other."""
    deviation = share * min(pixels.shape[2:])
    reach = max(1, math.ceil(REACH * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in range(2, pixels.ndim):
        ends = [(0, 0)] * axis + [(reach, reach)] + [(0, 0)] * (pixels.ndim - 1 - axis)
        wide = np.pad(pixels, ends, mode="symmetric")
        length = pixels.shape[axis]
        pixels = sum(weight * wide.take(range(start, start + length), axis=axis) for start, weight in enumerate(kernel))
    return pixels


def brightness(pixels: np.ndarray, ids: np.ndarray, shift: float, seed: int) -> np.ndarray:
    """x + shift."""
    return pixels + np.float32(shift)


def contrast(pixels: np.ndarray, ids: np.ndarray, factor: float, seed: int) -> np.ndarray:
    """Distances from the mean of each channel become smaller by `factor`."""
    mean = pixels.mean(axis=tuple(range(2, pixels.ndim)), keepdims=True, dtype=np.float64).astype(np.float32)
    return mean + np.float32(factor) * (pixels - mean)


CORRUPTIONS: MappingProxyType[str, tuple[Corruption, tuple[float, ...]]] = MappingProxyType(
    {
        "noise": (noise, NOISE),
        "blur": (blur, BLUR),
        "brightness": (brightness, BRIGHTNESS),
        "contrast": (contrast, CONTRAST),
    }
)


def corrupted(name: str, level: int, pixels: np.ndarray, ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32 [n, C, H, W] (of volumes [n, C, D, H, W]) in 0..1: `pixels`, in 0..1 as well, under a corruption at a level from 0 (mild) to 4.

    ids: int64 [n]. The same sample gets the same corruption in every batch.
    """
    function, strengths = CORRUPTIONS[name]
    return np.clip(function(pixels, ids, strengths[level], seed), 0.0, 1.0).astype(np.float32, copy=False)


def normalised_levels(
    inputs: np.ndarray, ids: np.ndarray, mean: Sequence[float], std: Sequence[float], seed: int = 0
) -> dict[str, list[Callable[[], np.ndarray]]]:
    """Corruption -> its five levels, of inputs [n, C, H, W] that are normalised with `mean` and `std` per channel; pixels in 0..1
    are corrupted, and normalised again."""
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    centre, spread = (np.asarray(values, dtype=np.float32).reshape(shape) for values in (mean, std))
    pixels = np.clip(inputs * spread + centre, 0.0, 1.0)

    def level(name: str, number: int) -> Callable[[], np.ndarray]:
        return lambda: (corrupted(name, number, pixels, ids, seed) - centre) / spread

    return {name: [level(name, number) for number in range(len(levels))] for name, (_, levels) in CORRUPTIONS.items()}
