"""strategy=evolving: one student, taught by independent teachers of growing capacity (EKD, arXiv 2605.09924)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, Learner, distil, supervised
from kdrun.strategies.takd import by_size, last_assistant

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

ORDERS = ("ascending", "descending", "shuffled")
STARTS = ("previous", "fresh")
EQUAL = "_equal"


@dataclass(frozen=True)
class Evolving(Strategy):
    """Teachers are the cast's teacher and its assistants, each trained on labels alone.

    epochs  of the student's hops, first to last; null: the student's trainer says it for each (the paper: 20 and 100)
    order   of the teachers by their number of parameters; shuffled is a function of the run's seed
    start   previous: each hop goes on from the selected epoch of the one before, optimizer and schedule anew (the
            paper); fresh: each hop starts from random weights, so that only the last one counts
    """

    epochs: list[int] | None = None
    order: str = "ascending"
    start: str = "previous"

    arms: ClassVar[dict[str, str]] = {
        **Strategy.arms,
        "plain_kd": "student, taught by the largest teacher",
        "direct_junior": "student, taught by the smallest teacher",
        "takd": "student, taught by an assistant that the largest teacher taught",
        "plain_kd_equal": "student, taught by the largest teacher, as many steps",
        "direct_junior_equal": "student, taught by the smallest teacher, as many steps",
        "takd_equal": "student, taught by a taught assistant, as many steps",
    }

    choices: ClassVar = {"order": ORDERS, "start": STARTS}
    ranges: ClassVar = {"epochs": (lambda epochs: min(epochs, default=1) >= 1, "each hop needs at least one epoch")}

    def check(self, cast: Cast) -> None:
        self._epochs(cast)

    def run(self, lab: Lab, cast: Cast) -> Result:
        learners = self._ordered(lab, cast)
        teachers, student = [lab.get(supervised(learner)) for learner in learners], None
        for hop, (teacher, epochs) in enumerate(zip(teachers, self._epochs(cast), strict=True), 1):
            role = "student" if hop == len(teachers) else f"hop{hop}_{learners[hop - 1].role}"
            start = student if self.start == "previous" else None
            student = lab.get(distil(cast.student, teacher, start=start, role=role, epochs=epochs))
        return student

    def student_epochs(self, cast: Cast) -> int:
        return sum(self._epochs(cast))

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """The arms of the paper; `_equal`: for as many optimisation steps as `run` spends on the student.

        takd is strategy=takd (arXiv 1902.03393): the assistants are distilled, the student is not moved.
        """
        kind = name.removesuffix(EQUAL)
        if kind not in ("plain_kd", "direct_junior", "takd"):
            return super().control(name, lab, cast)
        steps = {"epochs": self.student_epochs(cast)} if name.endswith(EQUAL) else {}
        ladder = by_size(lab, cast.teachers())
        if kind == "takd":
            teacher = last_assistant(lab, cast)
        else:
            teacher = lab.get(supervised(ladder[-1 if kind == "plain_kd" else 0]))
        return lab.get(distil(cast.student, teacher, role=name, **steps))

    def _epochs(self, cast: Cast) -> list[int]:
        hops = 1 + len(cast.assistants)
        epochs = self.epochs if self.epochs is not None else hops * [cast.student.trainer["epochs"]]
        if len(epochs) != hops:
            names = ", ".join([*(one.role for one in cast.assistants), "teacher"])
            raise UserError(f"strategy.epochs={epochs}: {hops} teachers need {hops} numbers (teachers: {names})")
        return epochs

    def _ordered(self, lab: Lab, cast: Cast) -> list[Learner]:
        ladder = by_size(lab, cast.teachers())
        if self.order == "shuffled":
            import random

            random.Random(cast.config["seed"]).shuffle(ladder)
        return ladder[::-1] if self.order == "descending" else ladder
