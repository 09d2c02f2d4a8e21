"""Whether a network may teach: what is said of it, what it reaches, and what a guess would reach. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROUNDING = 1e-6  # figures are computed in float32


class UnfitTeacher(RuntimeError):
    """The teacher is worse than it is said to be, or no better than a guess."""


def check_stated(
    name: str, metric: str, value: float, stated: float, tolerance: float, on: str, better: str = "max"
) -> None:
    """Raises UnfitTeacher where `value` is more than `tolerance` worse than `stated`. better: "max" or "min"."""
    behind = stated - value if better == "max" else value - stated
    if not behind <= tolerance + ROUNDING:
        raise UnfitTeacher(
            f"{_reaches(name, metric, value)} on {on}, {stated:.4f} was stated (teacher.tolerance={tolerance})"
        )


def check_guess(name: str, notes: Mapping[str, Any]) -> None:
    """Raises UnfitTeacher where what was measured of a teacher (preflight.preflight) is no better than a guess."""
    guess = notes.get("guess")
    if guess is None:  # measured before guesses were noted
        return
    value, limit = notes[guess["metric"]], guess["limit"]
    if not (value > limit if guess["better"] == "max" else value < limit):
        found = f"{_reaches(name, guess['metric'], value)} on {notes['samples']} validation samples"
        if limit >= 1 and guess["better"] == "max":
            raise UnfitTeacher(
                f"{found}; so few cannot tell any teacher from {guess['what']} ({guess['value']:.4f}); "
                "more of them by data.val_fraction or data.limit.val"
            )
        raise UnfitTeacher(
            f"{found}, no better than {guess['what']} ({guess['value']:.4f}, by chance up to {limit:.4f}); "
            "train it longer (teacher.trainer.epochs), or judge it on more samples (data.val_fraction)"
        )


def _reaches(name: str, metric: str, value: float) -> str:
    return f"teacher {name} reaches {'' if metric == 'accuracy' else metric + ' '}{value:.4f}"
