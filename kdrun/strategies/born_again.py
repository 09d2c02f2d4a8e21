"""strategy=born_again: networks of the student's own make, each taught by the one before; no larger teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, distil, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

SEEDS_APART = 1000
"""Seeds of generations differ by this: the paper begins each from other random weights."""


@dataclass(frozen=True)
class BornAgain(Strategy):
    """Born-again networks (Furlanello et al. 2018, arXiv 1805.04770), section 3: the student's network is trained on labels, then a
    new one of the same make is taught by it, and so on. The last one is the result.

    generations  that are taught; the paper has 1 to 3. The one before them is the student alone

    Each generation is trained for `trainer.epochs` under the run's objective, which may have no term of labels, as in the paper. What
    is spent on the student is all generations together. The paper also averages the predictions of generations; this does not.
    """

    generations: int = 2

    instead: ClassVar[dict[str, str]] = {
        "teacher": "networks of the student's own make teach; teacher.source and its kind say how",
        "assistants": "strategy=takd, evolving and cascaded have assistants",
    }
    ranges: ClassVar = {"generations": (lambda value: value >= 1, "at least 1")}

    def run(self, lab: Lab, cast: Cast) -> Result:
        student = lab.get(supervised(cast.student, role="generation_0"))
        for generation in range(1, self.generations + 1):
            learner = replace(cast.student, seed=cast.student.seed + SEEDS_APART * generation)
            last = generation == self.generations
            student = lab.get(distil(learner, student, role=None if last else f"generation_{generation}"))
        return student

    def label(self, cast: Cast) -> str:
        return (
            f"student {cast.student.config['name']}, taught by {self.generations} of its own make, one after the other"
        )

    def student_epochs(self, cast: Cast) -> int:
        return (1 + self.generations) * cast.student.trainer["epochs"]
