"""Hounsfield windows: which part of a CT image's range is spread over 0..1. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdrun.problems import UserError, closest


@dataclass(frozen=True)
class Window:
    """A level and a width in HU: values from level - width / 2 to level + width / 2 are told apart."""

    name: str
    level: float
    width: float

    @property
    def low(self) -> float:
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        return self.level + self.width / 2

    def apply(self, hu: np.ndarray) -> np.ndarray:
        """float32 in 0..1 of HU of any shape: 0 up to `low`, 1 from `high`, a straight line between.

        Integer HU give the float32 nearest to the exact quotient, the same on every machine.
        """
        clipped = np.clip(hu.astype(np.float32), np.float32(self.low), np.float32(self.high))
        return (clipped - np.float32(self.low)) / np.float32(self.width)


WINDOWS = {
    window.name: window
    for window in (
        Window("lung", -600, 1500),
        Window("mediastinal", 20, 350),
        Window("hrct", -600, 2000),
        Window("zero", 0, 1500),
        Window("bone", 250, 1000),
    )
}
"""The five windows of cross-window distillation (arXiv 2605.12562)."""

ALL = "all"


def window(given: Any) -> Window:
    """A window by name, or from [level, width] in HU; one of one's own is called by these, for example "40/400".

    Raises UserError naming what is allowed.
    """
    if isinstance(given, Window):
        return given
    if isinstance(given, str):
        found = WINDOWS.get(given.lower())
        if found is None:
            raise UserError(
                f"data.window={given}: there is no such window{closest(given, WINDOWS)}",
                f"there is {', '.join(WINDOWS)}, {ALL} of them, or [level,width] in HU",
            )
        return found
    if not _pair(given):
        raise UserError(f"data.window={given}: expected the name of a window or [level,width] in HU")
    level, width = map(float, given)
    if not (np.isfinite(level) and np.isfinite(width)) or width <= 0:
        raise UserError(f"data.window={given}: a width is above 0 HU, and both are finite")
    return Window(f"{level:g}/{width:g}", level, width)


def windows(given: Any) -> tuple[Window, ...]:
    """One window, a list of windows, or "all". [40, 400] is one window, [[40, 400], lung] are two.

    Raises UserError where one is there twice.
    """
    if given == ALL:
        return tuple(WINDOWS.values())
    several = isinstance(given, Sequence) and not isinstance(given, str) and not _pair(given)
    found = tuple(window(one) for one in given) if several else (window(given),)
    names = [one.name for one in found]
    if not names or len(set(names)) < len(names):
        raise UserError(f"data.window={given}: at least one window, and none twice")
    return found


def views(hu: np.ndarray, chosen: Sequence[Window]) -> np.ndarray:
    """float32 [N, V, ...]: HU [N, ...] under every window, so that all views of a sample are of the same voxels."""
    out = np.empty((len(hu), len(chosen), *hu.shape[1:]), np.float32)
    for place, one in enumerate(chosen):
        out[:, place] = one.apply(hu)
    return out


def _pair(given: Any) -> bool:
    numbers = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
    return numbers and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
