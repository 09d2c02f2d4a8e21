"""strategy=mean_teacher: the student is taught by the moving average of its own weights; no larger teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, averaged

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class MeanTeacher(Strategy):
    """Mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780), section 2: after step n the average moves to
    d * average + (1 - d) * student, d = min(decay, 1 - 1 / n), and in the next step the student is compared with it.

    decay  of the average; the code has 0.99 for the first part of training and 0.999 later, here it does not change. Until 1 / (1 -
           decay) steps are done the average is the mean of the weights after all steps; the code counts the first weights as well

    What is compared is said by the objective: `objective=mean_teacher` has divergences of probabilities, and a weight that grows at
    first as in the paper, which has their squared distance. The average is what is evaluated and kept. Inferred: it sees the samples
    as the student does (the paper draws noise and augmentation for each of the two), in eval mode.
    """

    decay: float = 0.99

    instead: ClassVar[dict[str, str]] = {
        "teacher": "the average of the student's own weights teaches",
        "assistants": "strategy=takd, evolving and cascaded have assistants",
        "trainer.ema": "strategy.decay",
    }
    ranges: ClassVar = {"decay": (lambda value: 0 < value < 1, "a number between 0 and 1")}

    def run(self, lab: Lab, cast: Cast) -> Result:
        return lab.get(averaged(cast.student, self.decay))

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, taught by its own average"
