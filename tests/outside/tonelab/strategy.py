"""Two teachers of one make; the one that hears better teaches the student."""

from dataclasses import dataclass

from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import distil, supervised


@dataclass(frozen=True)
class BetterEar(Strategy):
    """The teacher and the assistants are trained on labels; the one that is best on validation teaches the student."""

    def run(self, lab, cast):
        teachers = {learner.role: lab.get(supervised(learner)) for learner in cast.teachers()}
        better = lab.choose("better ear", teachers)
        return lab.get(distil(cast.student, teachers[better]))
