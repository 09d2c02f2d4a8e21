"""One grade of a student under its teachers (LLaVA-KD, arXiv 2410.16236): first phase, supervised phase, main phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kdrun.strategies.cast import Learner, first_phase, learn, teach

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result

GRADES = ("first_full", "all_full", "dft_only")


class Options(Protocol):
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


def spent_in(options: Options, distilled: list[int]) -> Spent:
    """By a student in grades with these epochs of their main phases; what assistants and teachers spend is theirs."""
    full = {"first_full": 1, "all_full": len(distilled), "dft_only": 0}[options.stages_per_teacher]
    return Spent(max(full, 1), full * options.sft, distilled)


def grade(
    options: Options,
    lab: Lab,
    learner: Learner,
    teachers: list[Result],
    role: str,
    epochs: int | None = None,
    *,
    drop: float = 0.0,
    start: Result | None = None,
    spent: Spent | None = None,
) -> Result:
    """The learner after a grade; `start` is what came before, None in the first.

    epochs  of the main phase; None: as the learner's trainer says
    spent   how often the first phase is run, and of how many the supervised phase has the epochs; None: one of each
    """
    full = {"all_full": True, "first_full": start is None, "dft_only": False}[options.stages_per_teacher]
    firsts, supervised, _ = spent or Spent(1, int(options.sft), [])
    if full:
        start = first_phases(lab, learner, role, firsts, start, teacher=teachers, drop=drop)
    elif start is None:
        start = first_phases(lab, learner, role, firsts)
    if full and supervised:
        length = supervised * sft_epochs(options, learner)
        start = learn(lab, learner, start=start, role=f"{role}_sft", pretrain=False, epochs=length)
    settings = {"epochs": learner.trainer["epochs"] if epochs is None else epochs}
    settings |= {"gap": True} if learner.role == "student" else {}
    return teach(lab, learner, teachers, start=start, role=role, pretrain=False, drop=drop, **settings)


def first_phases(lab: Lab, learner: Learner, role: str, count: int, start: Result | None = None, **taught: Any):
    """The learner after `count` first phases in turn, on labels or taught; `start` where the family has none."""
    for number in range(1, count + 1):
        name = role if number == 1 else f"{role}_{number}"
        start = first_phase(lab, learner, start=start, role=name, **taught) or start
    return start


def sft_epochs(options: Options, learner: Learner) -> int:
    """Epochs of one supervised phase."""
    return (options.sft_epochs if learner.role == "student" else None) or learner.trainer["epochs"]
