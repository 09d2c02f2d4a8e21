"""Rows of a table with noise, the same for every network: a function of (seed, sample id) alone. Numpy only."""

from __future__ import annotations

import numpy as np

from kdrun.data.randomness import normals

LEVELS = (0.1, 0.2, 0.4, 0.7, 1.0)
"""Deviations of the noise, in units of the training deviation."""


def noisy_rows(level: int, rows: np.ndarray, ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32 [n, F]: standardised rows with noise of a level from 0 to 4."""
    noise = np.float32(LEVELS[level]) * normals(ids, rows[0].size, seed).reshape(rows.shape)
    return (rows + noise).astype(np.float32, copy=False)
