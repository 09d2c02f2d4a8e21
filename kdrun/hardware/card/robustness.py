"""What corrupted inputs cost a network, beside what they cost its teacher. Numpy only.

    drop             = score of clean inputs - mean of the scores over corruptions and levels
    error            = mean over corruptions and levels of (1 - score): the mean corruption error, not normalised
    relative error   = mean over corruptions of  sum over levels (1 - score)  /  the teacher's own sum
                       (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 4.1, the teacher in the place of AlexNet)

Scores are those of the task's main metric, where 1 is perfect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def summary(clean: float, scores: Mapping[str, Sequence[float]], teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    """Scores by corruption with `clean`, `drop`, `error`, `teacher_drop` and `relative_error`.

    teacher: its own summary on the same samples; None: there is none, and what needs it is None. A relative error is None too where
    the teacher makes no error at all.
    """
    every = [value for values in scores.values() for value in values]
    found: dict[str, Any] = {name: [float(value) for value in values] for name, values in scores.items()}
    found |= {
        "clean": float(clean),
        "drop": float(clean - np.mean(every)),
        "error": float(np.mean(1 - np.array(every))),
    }
    found |= {"teacher_drop": None, "relative_error": None}
    if teacher is not None:
        found["teacher_drop"] = teacher["drop"]
        sums = [(_errors(scores[name]), _errors(teacher[name])) for name in scores]
        if all(reference > 0 for _, reference in sums):
            found["relative_error"] = float(np.mean([own / reference for own, reference in sums]))
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()
    }


def _errors(scores: Sequence[float]) -> float:
    return sum(1 - value for value in scores)
