"""strategy=teacher_ensemble: teachers of one make that begin with other random weights teach one student together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import TEACHER, Cast, distil, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

SEEDS_APART = 1000
"""Seeds of the teachers differ by this, so that they begin with other random weights."""


@dataclass(frozen=True)
class TeacherEnsemble(Strategy):
    """An ensemble into one network (Hinton et al. 2015, arXiv 1503.02531, sections 3 and 5): several teachers are trained on labels apart
    from each other, and each term that needs a teacher is its mean over all of them.

    teachers  how many; the first is the teacher of the config, and 1 is strategy=vanilla

    The mean over teachers of the divergence to each has the gradient of the divergence to the mean of their probabilities, which is what
    the paper's student learns from (it also names their geometric mean). `plain_kd` is the student of the first teacher alone. Figures of
    the teacher are those of the first.
    """

    teachers: int = 3

    instead: ClassVar[dict[str, str]] = {
        "assistants": "strategy.teachers says how many networks of the teacher's make teach"
    }
    ranges: ClassVar = {"teachers": (lambda value: value >= 1, "at least 1")}

    def check(self, cast: Cast) -> None:
        if cast.teacher.brought:
            raise UserError(
                "teacher.weights: strategy=teacher_ensemble trains several teachers, and weights are those of one",
                "leave teacher.weights out, or give strategy=vanilla",
            )

    def run(self, lab: Lab, cast: Cast) -> Result:
        first = cast.teacher
        others = [replace(first, seed=first.seed + SEEDS_APART * n) for n in range(1, self.teachers)]
        taught = [lab.get(supervised(first))]
        taught += [lab.get(supervised(other, role=f"{TEACHER}_{n}")) for n, other in enumerate(others, 2)]
        return lab.get(distil(cast.student, taught))

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, taught by {self.teachers} teachers at once"
