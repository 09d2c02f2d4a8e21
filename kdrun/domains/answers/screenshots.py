"""Screenshots of screens as networks see them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kdrun.domains.answers.screen import Screen
from kdrun.problems import UserError

LEAST = 16
"""Pixels of a side."""


class Screenshots:
    """Pictures of screens, whose ids are their places: white below or beside them until they are square, then of `size` pixels a side. They are
    drawn once, when they are first asked for.

    size, source_hash: see language.source.Pictures. Raises UserError for a size that shows nothing.
    """

    def __init__(self, screens: Sequence[Screen], size: int):
        if size < LEAST:
            raise UserError(f"data.screenshot={size}: pixels of a side, {LEAST} or more; null: agents read text alone")
        self.screens, self.size = screens, size

    @cached_property
    def drawn(self) -> np.ndarray:
        """uint8 [N, 3, size, size]."""
        return np.stack([_square(screen.picture()[0], self.size) for screen in self.screens])

    @cached_property
    def source_hash(self) -> str:
        return hashlib.sha256(self.drawn.tobytes()).hexdigest()

    def pixels(self, ids: np.ndarray) -> np.ndarray:
        return self.drawn[ids]


def _square(image: Any, size: int) -> np.ndarray:
    from PIL import Image

    side = max(image.size)
    whole = Image.new("RGB", (side, side), "white")
    whole.paste(image)
    return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
