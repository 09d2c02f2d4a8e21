"""Views of ordinary images, for strategies in which one view of a sample teaches another. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kdrun.domains.ct.source import Scans
from kdrun.domains.images.source import Images
from kdrun.problems import UserError, closest, listed

STEEPEST = 20**0.5
"""Largest length that Sobel's gradient has anywhere in an image of 0..1."""


def view(images: Images, name: str) -> Images:
    """The same samples seen another way; ids, order, labels and splits stay.

    Of ordinary images `name` is one of VIEWS, of scans one of their windows. Raises UserError where there is no such
    view, or where it needs channels that the images do not have.
    """
    if isinstance(images, Scans):
        if name not in images.views:
            raise UserError(
                f"{images.name} has no view {name!r}{closest(name, images.views)}",
                f"it has: {listed(images.views)}; data.window says which",
            )
        place = images.views.index(name)
        return replace(images, x=images.x[:, place : place + 1], views=(name,))
    if name not in VIEWS:
        raise UserError(f"there is no view {name!r}{closest(name, VIEWS)}", f"views of images: {listed(VIEWS)}")
    channels = images.x.shape[1]
    if channels != 3 and (name in COLOURS or channels != 1):
        raise UserError(
            f"{images.name} has no view {name!r}: its images have {channels} channel{'s' if channels != 1 else ''}",
            f"{', '.join(COLOURS)} are of images in colour, the others also of one channel",
        )
    return replace(images, x=VIEWS[name](images.x))


def grey(x: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601 (0.299 R + 0.587 G + 0.114 B), [N, 1, H, W]; one channel is grey already."""
    if x.shape[1] == 1:
        return x
    if x.dtype == np.uint8:  # in whole numbers, so the same on every machine
        red, green, blue = (x[:, [channel]].astype(np.uint32) for channel in range(3))
        return ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(np.uint8)
    return np.float32(0.299) * x[:, [0]] + np.float32(0.587) * x[:, [1]] + np.float32(0.114) * x[:, [2]]


def edges(x: np.ndarray) -> np.ndarray:
    """Length of Sobel's gradient of the grey image, divided by STEEPEST so that it stays in range."""
    around = _around(grey(x).astype(np.float32))
    across = _sum(around, ((0, 2, 1), (1, 2, 2), (2, 2, 1), (0, 0, -1), (1, 0, -2), (2, 0, -1)))
    down = _sum(around, ((2, 0, 1), (2, 1, 2), (2, 2, 1), (0, 0, -1), (0, 1, -2), (0, 2, -1)))
    return _as(np.sqrt(across**2 + down**2) / np.float32(STEEPEST), x.dtype)


def blurred(x: np.ndarray) -> np.ndarray:
    """Mean of 3x3 pixels of the grey image."""
    around = _around(grey(x).astype(np.float32))
    return _as(_sum(around, [(row, column, 1) for row in range(3) for column in range(3)]) / np.float32(9), x.dtype)


def _around(x: np.ndarray) -> np.ndarray:
    """One more pixel on every side, the nearest one again."""
    return np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")


def _sum(around: np.ndarray, terms) -> np.ndarray:
    """Sum of neighbours (row, column, factor): 1, 1 is the pixel itself."""
    height, width = around.shape[2] - 2, around.shape[3] - 2
    return sum(factor * around[:, :, row : row + height, column : column + width] for row, column, factor in terms)


def _as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float32 that fits, or whole numbers: the nearest."""
    return np.floor(values + np.float32(0.5)).astype(dtype) if dtype == np.uint8 else values.astype(dtype)


COLOURS = ("red", "green", "blue")
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "colour": lambda x: x,
    "grey": grey,
    "red": lambda x: x[:, 0:1],
    "green": lambda x: x[:, 1:2],
    "blue": lambda x: x[:, 2:3],
    "edges": edges,
    "blurred": blurred,
}
"""View -> uint8 or float32 (0..1) [N, C, H, W] to [N, C', H, W] of the same type; C' is 1 of all but `colour`."""
