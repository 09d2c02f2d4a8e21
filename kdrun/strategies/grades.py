"""One grade of a student under its teachers (LLaVA-KD, arXiv 2410.16236): first phase, supervised phase, main phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kdrun.strategies.cast import Learner, distil, first_phase, supervised

if TYPE_CHECKING:
    from kdrun.lab.stages.base import Result
    from kdrun.lab.stages.fit import Fit

GRADES = ("first_full", "all_full", "dft_only")


class GradeOptions(Protocol):
    """What a strategy says of its grades: which of them are full, whether these have a supervised phase, and its epochs for
    the student (None: as the trainer says)."""

    stages_per_teacher: str
    sft: bool
    sft_epochs: int | None


class Spent(NamedTuple):
    """What a student spends in phases: the number of first and of supervised ones, and the epochs of each distilled one."""

    first: int
    supervised: int
    distilled: list[int]


def spent_in(options: GradeOptions, distilled: list[int]) -> Spent:
    """By a student in grades with these epochs of their main phases; what assistants and teachers spend is theirs."""
    full = {"first_full": 1, "all_full": len(distilled), "dft_only": 0}[options.stages_per_teacher]
    return Spent(max(full, 1), full * options.sft, distilled)


def grade(
    options: GradeOptions,
    learner: Learner,
    teachers: list[Result],
    role: str,
    epochs: int | None = None,
    *,
    drop: float = 0.0,
    start: Result | None = None,
    spent: Spent | None = None,
) -> Fit:
    """The main phase of a grade, which starts from those before it; `start` is what came before the grade, None in the first.

    epochs  of the main phase; None: as the learner's trainer says
    spent   how often the first phase is run, and of how many the supervised phase has the epochs; None: one of each
    """
    full = {"all_full": True, "first_full": start is None, "dft_only": False}[options.stages_per_teacher]
    firsts, phases, _ = spent or Spent(1, int(options.sft), [])
    before: Result | Fit | None = start
    if full:
        before = first_phases(learner, role, firsts, start, teacher=teachers, drop=drop)
    elif start is None:
        before = first_phases(learner, role, firsts)
    if full and phases:
        length = phases * sft_epochs(options, learner)
        before = supervised(learner, start=before, role=f"{role}_sft", pretrain=False, epochs=length)
    settings: dict[str, Any] = {"epochs": learner.trainer["epochs"] if epochs is None else epochs}
    settings |= {"gap": True} if learner.role == "student" else {}
    return distil(learner, teachers, start=before, role=role, pretrain=False, drop=drop, **settings)


def first_phases(
    learner: Learner, role: str, count: int, start: Result | Fit | None = None, **taught: Any
) -> Result | Fit | None:
    """`count` first phases in turn, on labels or taught, as the last of them; `start` where the family has none."""
    for number in range(1, count + 1):
        name = role if number == 1 else f"{role}_{number}"
        start = first_phase(learner, start=start, role=name, **taught) or start
    return start


def sft_epochs(options: GradeOptions, learner: Learner) -> int:
    """Epochs of one supervised phase."""
    return (options.sft_epochs if learner.role == "student" else None) or learner.trainer["epochs"]
