"""strategy=cascaded: one student in grades, smallest teacher first (LLaVA-CKD, arXiv 2605.10641).

A grade is that of LLaVA-KD (arXiv 2410.16236): first phase distilled, supervised phase, main phase distilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from kdrun.problems import UserError, closest, listed
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, Learner, first_phase, learn, teach
from kdrun.strategies.takd import by_size

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stage import Trained

SCHEMES = ("bottom_up", "takd", "dgkd", "joint")
ORDERS = ("ascending", "descending")
GRADES = ("first_full", "all_full", "dft_only")
AUTO = "auto"
EQUAL = "_equal"


class Guide(NamedTuple):
    """A teacher of the cast, trained."""

    learner: Learner
    trained: Trained


class Spent(NamedTuple):
    """What `run` spends on the student: how many first and supervised phases, and the epochs of each distilled one."""

    first: int
    supervised: int
    distilled: list[int]


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

    From the papers: bottom-up order and plain teachers (abstract of LLaVA-CKD), the three phases (LLaVA-KD). Inferred, as
    neither says it: that later grades need the distilled main phase only, that each phase begins with a fresh optimizer and
    schedule, that assistants of takd and dgkd get a grade like the student's, and that only the student's teachers are
    dropped.
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
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {"scheme": SCHEMES, "order": ORDERS, "stages_per_teacher": GRADES}
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"strategy.{name}={value}{closest(str(value), choices)}; all: {listed(choices)}")
        if self.order != ORDERS[0] and self.scheme != SCHEMES[0]:
            raise UserError(f"strategy.order={self.order}: only scheme=bottom_up has an order, not {self.scheme}")
        if self.teachers != AUTO and (isinstance(self.teachers, str) or not self.teachers):
            raise UserError(f"strategy.teachers={self.teachers}: auto, or a list of names such as [teacher]")
        if len(set(self.teachers)) < len(self.teachers) and self.teachers != AUTO:
            raise UserError(f"strategy.teachers={self.teachers}: a teacher is named twice")
        if any(epochs < 1 for epochs in (*(self.epochs or ()), self.sft_epochs or 1)) or self.sft_epochs == 0:
            key = f"strategy.epochs={self.epochs} strategy.sft_epochs={self.sft_epochs}"
            raise UserError(
                f"{key}: each phase needs at least one epoch", "strategy.sft=false leaves the supervised out"
            )
        if not 0 <= self.drop < 1:
            raise UserError(f"strategy.drop={self.drop}: a probability of at least 0 and below 1")

    # the result

    def check(self, cast: Cast) -> None:
        self._epochs(cast)

    def run(self, lab: Lab, cast: Cast) -> Trained:
        if self.scheme == "bottom_up":
            return self._cascade(lab, cast, self.order, self._epochs(cast), "student")
        (epochs,) = self._epochs(cast)
        return self._grade(lab, cast.student, self._guides(self.scheme, lab, cast), "student", epochs, self._drop)

    def student_epochs(self, cast: Cast) -> int:
        """Supervised and distilled epochs of the main phases. First phases, on other data, are counted apart: `spent`."""
        spent = self.spent(cast)
        return spent.supervised * self._sft_epochs(cast.student) + sum(spent.distilled)

    def spent(self, cast: Cast) -> Spent:
        """The student's phases in `run`. Those of `taught` assistants and of teachers are not the student's."""
        distilled = self._epochs(cast)
        full = {"first_full": 1, "all_full": len(distilled), "dft_only": 0}[self.stages_per_teacher]
        return Spent(max(full, 1), full * self.sft, distilled)

    # arms

    def control(self, name: str, lab: Lab, cast: Cast) -> Trained:
        """One arm to compare with; teachers, student, seed and data are those of `run`.

        plain_kd, direct_junior, takd, joint and dgkd are one grade each, with the epochs of the student's trainer and of
        `sft_epochs`; reversed has the grades of `run` and their epochs. In the `_equal` arms and in equal_compute each phase
        lasts as long as all phases of its kind in `run` together: as many first phases, each going on from the one before;
        then one supervised phase of all supervised epochs; then (equal_compute: on labels, in the same phase) all epochs of
        the distilled ones. A step is a batch of the same size throughout, so that steps are equal phase by phase.
        """
        student = cast.student
        if name == "equal_compute":
            start = self._first(lab, student, None, name, self.spent(cast).first)
            return learn(lab, student, start=start, role=name, pretrain=False, epochs=self.student_epochs(cast))
        if name == "reversed":
            order = ORDERS[1 - ORDERS.index(self.order)]
            hops = self._epochs(cast) if self.scheme == "bottom_up" else None
            return self._cascade(lab, cast, order, hops or len(self._chosen(cast)) * [student.trainer["epochs"]], name)
        if name in ("takd", "joint", "dgkd"):
            guides = self._guides(name, lab, cast)
            return self._grade(lab, student, guides, name, drop=self.drop if name == "dgkd" else 0.0)
        if (kind := name.removesuffix(EQUAL)) in ("plain_kd", "direct_junior"):
            ladder = by_size(lab, self._chosen(cast))
            teacher = ladder[-1] if kind == "plain_kd" else ladder[0]
            guides = [Guide(teacher, learn(lab, teacher))]
            if kind == name:
                return self._grade(lab, student, guides, name)
            spent = self.spent(cast)
            return self._grade(lab, student, guides, name, sum(spent.distilled), spent=spent)
        return super().control(name, lab, cast)

    # how

    def _cascade(self, lab: Lab, cast: Cast, order: str, hops: Sequence[int], role: str) -> Trained:
        """One grade per teacher. Teachers are trained first: a failure of theirs then costs nothing of the student."""
        ladder = by_size(lab, self._chosen(cast))
        guides = [Guide(teacher, learn(lab, teacher)) for teacher in ladder[:: 1 if order == ORDERS[0] else -1]]
        prefix, student = ("" if role == "student" else f"{role}_"), None
        for number, (guide, epochs) in enumerate(zip(guides, hops, strict=True), 1):
            last = number == len(guides)
            own = role if last else f"{prefix}grade{number}_{guide.learner.role}"
            student = self._grade(lab, cast.student, [guide], own, epochs, start=student)
        return student

    def _guides(self, scheme: str, lab: Lab, cast: Cast) -> list[Guide]:
        """Who teaches the student at once, largest first. takd: the smallest assistant alone, taught down the ladder."""
        largest, *assistants = by_size(lab, self._chosen(cast))[::-1]
        guides = [Guide(largest, learn(lab, largest))]
        for assistant in assistants:
            if scheme == "joint":
                taught = learn(lab, assistant)
            elif scheme == "takd":
                taught = self._grade(lab, assistant, guides[-1:], f"taught_{assistant.role}")
            else:
                taught = self._grade(lab, assistant, guides, f"guided_{assistant.role}")
            guides.append(Guide(assistant, taught))
        return guides[-1:] if scheme == "takd" else guides

    def _grade(
        self,
        lab: Lab,
        learner: Learner,
        guides: list[Guide],
        role: str,
        epochs: int | None = None,
        drop: float = 0.0,
        *,
        start: Trained | None = None,
        spent: Spent | None = None,
    ) -> Trained:
        """One grade under `guides`; `start` is what came before, None in the first grade.

        epochs  of the distilled main phase; None: as the learner's trainer says
        spent   how often the first phase is run, and of how many the supervised phase has the epochs; None: one of each
        """
        trained, teaching = [guide.trained for guide in guides], guides[0].learner.config
        full = self.stages_per_teacher == "all_full" or (start is None and self.stages_per_teacher == "first_full")
        first, supervised = (spent.first, spent.supervised) if spent else (1, int(self.sft))
        if full:
            start = self._first(lab, learner, guides, role, first, start, drop)
            if supervised:
                all_epochs = supervised * self._sft_epochs(learner)
                start = learn(lab, learner, start=start, role=f"{role}_sft", pretrain=False, epochs=all_epochs)
        elif start is None:
            start = self._first(lab, learner, None, role, first)
        settings = {"epochs": learner.trainer["epochs"] if epochs is None else epochs}
        if learner.role == "student":
            settings["gap"] = True
        together = trained if len(trained) > 1 else trained[0]
        return teach(
            lab, learner, together, start=start, role=role, teaching=teaching, pretrain=False, drop=drop, **settings
        )

    def _first(
        self,
        lab: Lab,
        learner: Learner,
        guides: list[Guide] | None,
        role: str,
        count: int,
        start: Trained | None = None,
        drop: float = 0.0,
    ) -> Trained | None:
        """`count` first phases, one after another, on labels or under `guides`; `start` as it is where there are none."""
        taught = {}
        if guides:
            trained = [guide.trained for guide in guides]
            together = trained if len(trained) > 1 else trained[0]
            taught = {"teacher": together, "teaching": guides[0].learner.config, "drop": drop}
        for number in range(1, count + 1):
            name = role if number == 1 else f"{role}_{number}"
            start = first_phase(lab, learner, start=start, role=name, **taught) or start
        return start

    # options against the cast

    @property
    def _drop(self) -> float:
        return self.drop if self.scheme == "dgkd" else 0.0

    def _sft_epochs(self, learner: Learner) -> int:
        own = learner.role == "student" and self.sft_epochs is not None
        return self.sft_epochs if own else learner.trainer["epochs"]

    def _chosen(self, cast: Cast) -> list[Learner]:
        known = {learner.role: learner for learner in (*cast.assistants, cast.teacher)}
        for name in () if self.teachers == AUTO else self.teachers:
            if name not in known:
                raise UserError(f"strategy.teachers: no teacher {name!r}{closest(name, known)}; all: {listed(known)}")
        return list(known.values()) if self.teachers == AUTO else [known[name] for name in self.teachers]

    def _epochs(self, cast: Cast) -> list[int]:
        """Of every distilled main phase of the student in `run`."""
        hops = len(self._chosen(cast)) if self.scheme == "bottom_up" else 1
        if self.epochs is None:
            return hops * [cast.student.trainer["epochs"]]
        if len(self.epochs) != hops:
            names = ", ".join(learner.role for learner in self._chosen(cast))
            why = f"{hops} teachers ({names}) need {hops}" if hops > 1 else f"scheme={self.scheme}: one grade needs 1"
            raise UserError(f"strategy.epochs={self.epochs}: {why} number{'s' * (hops > 1)}")
        return self.epochs
