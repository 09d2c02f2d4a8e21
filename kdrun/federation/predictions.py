"""Class probabilities on public samples as they travel: in full, in half precision, or the largest of each row."""

from __future__ import annotations

import numpy as np

from kdrun.federation.messages import Arrays, Expected, Update, size
from kdrun.federation.methods.options import ENCODINGS

PREDICTIONS, VALUES, CLASSES = "predictions", "values", "classes"
SLACK = 0.02
"""How far a row may sum to another number than 1: half precision of many classes."""


def encode(rows: np.ndarray, encoding: str, top_k: int) -> dict[str, np.ndarray]:
    """Arrays of float32 [U, C] probabilities. top_k: the k largest of each row as float16, with the numbers of their classes."""
    if encoding != "top_k":
        return {PREDICTIONS: rows.astype(encoding)}
    kept = np.sort(np.argsort(-rows, axis=1, kind="stable")[:, :top_k], axis=1)
    values = np.take_along_axis(rows, kept, axis=1).astype(np.float16)
    return {VALUES: values, CLASSES: kept.astype(_whole(rows.shape[1]))}


def decode(arrays: Arrays, width: int) -> np.ndarray:
    """float32 [U, width] of what `encode` gave; what the largest leave of 1 is spread evenly over the other classes."""
    if PREDICTIONS in arrays:
        return arrays[PREDICTIONS].astype(np.float32)
    values, kept = arrays[VALUES].astype(np.float32), arrays[CLASSES].astype(np.int64)
    left = np.clip(1 - values.sum(axis=1, keepdims=True), 0, None) / max(1, width - kept.shape[1])
    rows = np.repeat(left.astype(np.float32), width, axis=1)
    np.put_along_axis(rows, kept, values, axis=1)
    return rows


def expected(count: int, width: int, encoding: str, top_k: int) -> Expected:
    """The form of what `encode` gives of [count, width]."""
    arrays = encode(np.zeros((count, width), np.float32), encoding, top_k)
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def sizes(count: int, width: int, top_k: int) -> dict[str, int]:
    """Bytes of one answer with predictions [count, width], by encoding."""
    rows = np.zeros((count, width), np.float32)
    return {encoding: size(Update(encode(rows, encoding, top_k))) for encoding in ENCODINGS}


def unlikely(arrays: Arrays, width: int) -> str | None:
    """Why arrays of the right form are no probabilities, in words, or None."""
    values = arrays[PREDICTIONS if PREDICTIONS in arrays else VALUES].astype(np.float64)
    sums = values.sum(axis=1)
    if (values < 0).any() or (sums > 1 + SLACK).any() or (PREDICTIONS in arrays and (sums < 1 - SLACK).any()):
        return "its predictions are no probabilities"
    if CLASSES in arrays:
        kept = np.sort(arrays[CLASSES].astype(np.int64), axis=1)
        if kept.max(initial=0) >= width or (np.diff(kept, axis=1) == 0).any():
            return "classes of its predictions are unknown, or twice the same"
    return None


def _whole(width: int) -> type[np.integer]:
    """The smallest type of whole numbers for this many classes."""
    return np.uint8 if width <= 2**8 else np.uint16
