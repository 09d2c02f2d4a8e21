"""Resizing planes of a volume with weights that are the same on every machine. No torch."""

from __future__ import annotations

import numpy as np


def weights(size: int, target: int, scale: float | None = None) -> np.ndarray:
    """float32 [target, size]: what each of `target` samples takes of `size` samples; every row sums to 1.

    A triangle as wide as two samples of the coarser side: linear between samples where it enlarges, an average that
    leaves no aliases where it shrinks. scale: samples of the source for one of the target (size / target unless given);
    the middles of both always coincide.
    """
    scale = size / target if scale is None else scale
    centres = (np.arange(target) + 0.5 - target / 2) * scale + size / 2
    reach = max(scale, 1.0)
    distance = np.abs(centres[:, None] - (np.arange(size) + 0.5)[None])
    found = np.maximum(1 - distance / reach, 0)
    total = found.sum(axis=1, keepdims=True)
    outside = total[:, 0] == 0  # beyond the edge: the sample next to it
    if outside.any():
        nearest = np.clip(np.floor(centres[outside]).astype(int), 0, size - 1)
        found[np.flatnonzero(outside), nearest] = 1
        total[outside] = 1
    return (found / total).astype(np.float32)


def resize_planes(planes: np.ndarray, height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """float32 [..., h, w] of planes [..., H, W] with the weights of both sides ([h, H] and [w, W])."""
    return np.matmul(np.matmul(height, planes.astype(np.float32, copy=False)), width.T)


def nearest(size: int, target: int, scale: float | None = None) -> np.ndarray:
    """int64 [target]: the sample whose middle lies nearest, for what cannot be averaged (labels)."""
    scale = size / target if scale is None else scale
    centres = (np.arange(target) + 0.5 - target / 2) * scale + size / 2
    return np.clip(np.floor(centres), 0, size - 1).astype(np.int64)


def fit(planes: np.ndarray, height: int, width: int, fill: float) -> np.ndarray:
    """The middle [..., height, width] of planes; where they are smaller, `fill` around them."""
    out = np.full((*planes.shape[:-2], height, width), fill, planes.dtype)
    spans = []
    for have, want in ((planes.shape[-2], height), (planes.shape[-1], width)):
        count = min(have, want)
        spans.append((slice((want - count) // 2, (want - count) // 2 + count), (have - count) // 2, count))
    (to_rows, row, rows), (to_columns, column, columns) = spans
    out[..., to_rows, to_columns] = planes[..., row : row + rows, column : column + columns]
    return out
