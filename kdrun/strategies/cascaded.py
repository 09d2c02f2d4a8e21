"""strategy=cascaded: one student in grades (see grades.py), smallest teacher first (LLaVA-CKD, arXiv 2605.10641)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdrun.problems import UserError
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, supervised
from kdrun.strategies.grades import GRADES, first_phases, grade, sft_epochs, spent_in
from kdrun.strategies.takd import by_size

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

SCHEMES = ("bottom_up", "takd", "dgkd", "joint")
ORDERS = ("ascending", "descending")
AUTO, EQUAL = "auto", "_equal"


@dataclass(frozen=True)
class Cascaded(Strategy):
    """Teachers are ordinary networks trained on labels; the student passes through them one after another.

    scheme     bottom_up: one grade per teacher, each going on from the selected epoch of the one before (the paper);
               takd: assistants are taught down the ladder, the smallest teaches the student (arXiv 1902.03393);
               dgkd: each assistant is taught by all larger ones, the student by all at once, each left out of a step with
               probability `drop` (arXiv 2009.08825); joint: all plain teachers at once, none left out
    order      of the grades of bottom_up, by number of parameters
    teachers   auto: the cast's teacher and all its assistants; or names of some of them: [nmt_t64, teacher]
    stages_per_teacher
               a full grade is: first phase distilled (where the config has `pretrain`), supervised phase, main phase
               distilled. first_full: full first grade, then main phases only; all_full: every grade full; dft_only: the
               family's own first phase on labels, then main phases only
    sft        whether a full grade has its supervised phase
    epochs     of the distilled main phases of `run`, first to last; null: the student's trainer says it for each
    sft_epochs of a supervised phase of the student; null: as its trainer says
    drop       dgkd: probability of each teacher to be left out of a step; one at least stays

    From the papers: bottom-up order and plain teachers (LLaVA-CKD), the three phases (LLaVA-KD). Inferred: later grades have
    the distilled main phase only, each phase begins with a fresh optimizer and schedule, assistants of takd and dgkd get a
    grade like the student's, only the student's teachers are dropped.
    """

    scheme: str = "bottom_up"
    order: str = "ascending"
    stages_per_teacher: str = "first_full"
    teachers: str | list[str] = "auto"
    sft: bool = True
    epochs: list[int] | None = None
    sft_epochs: int | None = None
    drop: float = 0.25

    arms: ClassVar[dict[str, str]] = {
        **Strategy.arms,
        "plain_kd": "student, from the largest teacher",
        "direct_junior": "student, from the smallest teacher",
        "reversed": "student, grades in the other order",
        "takd": "student, TAKD",
        "joint": "student, all teachers at once",
        "dgkd": "student, DGKD",
        "plain_kd_equal": "student, from the largest, as many steps",
        "direct_junior_equal": "student, from the smallest, as many steps",
        "restarts": "student on labels, in the phases of the cascade",
    }
    choices: ClassVar = {"scheme": SCHEMES, "order": ORDERS, "stages_per_teacher": GRADES}
    ranges: ClassVar = {
        "epochs": (lambda epochs: min(epochs, default=1) >= 1, "each phase needs at least one epoch"),
        "sft_epochs": (lambda n: n >= 1, "at least one epoch; strategy.sft=false leaves the supervised phase out"),
        "drop": (lambda drop: 0 <= drop < 1, "a probability of at least 0 and below 1"),
        "teachers": (lambda names: names == AUTO or (names and not isinstance(names, str)), "auto, or a list of names"),
    }

    def check(self, cast: Cast) -> None:
        if self.order != ORDERS[0] and self.scheme != "bottom_up":
            raise UserError(f"strategy.order={self.order}: only scheme=bottom_up has an order, not {self.scheme}")
        self._epochs(cast)

    def run(self, lab: Lab, cast: Cast) -> Result:
        """A grade under each teacher in turn; of the other schemes, one grade under those who teach at once."""
        if self.scheme != "bottom_up":
            drop = self.drop if self.scheme == "dgkd" else 0.0
            teachers, (epochs,) = self._at_once(self.scheme, lab, cast), self._epochs(cast)
            return lab.get(grade(self, cast.student, teachers, "student", epochs, drop=drop))
        return self._cascade(lab, cast, "student", self.order, self._epochs(cast))

    def _cascade(self, lab: Lab, cast: Cast, role: str, order: str, epochs: Sequence[int]) -> Result:
        """Teachers are trained first: a failure of theirs then costs nothing of the student."""
        learners = by_size(lab, cast.teachers(self.teachers))[:: 1 if order == ORDERS[0] else -1]
        teachers, student = [lab.get(supervised(learner)) for learner in learners], None
        prefix = "" if role == "student" else f"{role}_"
        names = [f"{prefix}grade{number}_{learner.role}" for number, learner in enumerate(learners[:-1], 1)]
        for teacher, name, of_hop in zip(teachers, [*names, role], epochs, strict=True):
            student = lab.get(grade(self, cast.student, [teacher], name, of_hop, start=student))
        return student

    def _at_once(self, scheme: str, lab: Lab, cast: Cast) -> list[Result]:
        """Who teaches the student at once, largest first. takd: the smallest assistant alone, taught down the ladder."""
        largest, *assistants = by_size(lab, cast.teachers(self.teachers))[::-1]
        teachers = [lab.get(supervised(largest))]
        for assistant in assistants:
            if scheme == "joint":
                teachers.append(lab.get(supervised(assistant)))
            elif scheme == "takd":
                teachers = [lab.get(grade(self, assistant, teachers, f"taught_{assistant.role}"))]
            else:
                teachers = [*teachers, lab.get(grade(self, assistant, teachers, f"guided_{assistant.role}"))]
        return teachers

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """One arm, of one grade unless it says otherwise, with the epochs of the student's trainer and of `sft_epochs`.

        reversed has the grades of `run` and their epochs. In the `_equal` arms and in equal_compute (on labels) each phase lasts
        as long as all phases of its kind in `run`: as many first phases, each going on from the one before; then one supervised
        phase; then one distilled. A step is a batch of the same size throughout, so that steps are equal phase by phase.
        restarts is equal_compute in as many phases as `run` has, each with an optimizer and a schedule of its own, so that what
        the restarts of the learning rate do is told apart from what teachers do.
        """
        student, spent, kind = cast.student, spent_in(self, self._epochs(cast)), name.removesuffix(EQUAL)
        if name == "equal_compute":
            start, epochs = first_phases(student, name, spent.first), self.student_epochs(cast)
            return lab.get(supervised(student, start=start, role=name, pretrain=False, epochs=epochs))
        if name == "restarts":
            phases = [*spent.supervised * [sft_epochs(self, student)], *spent.distilled]
            start = first_phases(student, name, spent.first)
            for number, epochs in enumerate(phases, 1):
                role = name if number == len(phases) else f"{name}_{number}"
                start = lab.get(supervised(student, start=start, role=role, pretrain=False, epochs=epochs))
            return start
        if name == "reversed":
            each = len(cast.teachers(self.teachers)) * [student.trainer["epochs"]]
            epochs = spent.distilled if self.scheme == "bottom_up" else each
            return self._cascade(lab, cast, name, ORDERS[1 - ORDERS.index(self.order)], epochs)
        if name in SCHEMES:
            drop = self.drop if name == "dgkd" else 0.0
            return lab.get(grade(self, student, self._at_once(name, lab, cast), name, drop=drop))
        if kind in ("plain_kd", "direct_junior"):
            teacher = lab.get(supervised(by_size(lab, cast.teachers(self.teachers))[-1 if kind == "plain_kd" else 0]))
            equal = {} if kind == name else {"epochs": sum(spent.distilled), "spent": spent}
            return lab.get(grade(self, student, [teacher], name, **equal))
        return super().control(name, lab, cast)

    def student_epochs(self, cast: Cast) -> int:
        """Of main phases, supervised and distilled; first phases are on other data."""
        spent = spent_in(self, self._epochs(cast))
        return spent.supervised * sft_epochs(self, cast.student) + sum(spent.distilled)

    def _epochs(self, cast: Cast) -> list[int]:
        """Of every distilled main phase of the student in `run`."""
        names = [learner.role for learner in cast.teachers(self.teachers)]
        hops = len(names) if self.scheme == "bottom_up" else 1
        epochs = hops * [cast.student.trainer["epochs"]] if self.epochs is None else self.epochs
        if len(epochs) != hops:
            why = f"{hops} teachers ({', '.join(names)}) need {hops} numbers"
            raise UserError(f"strategy.epochs={epochs}: {why if hops > 1 else f'scheme={self.scheme} needs 1 number'}")
        return epochs
