"""Which arms have had as many optimisation steps as the student, and which of them the verdict is over."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from kdrun.job.selection import apart_of
from kdrun.records import steps_spent, trained_on

ALONE, EQUAL = "alone", "equal_compute"
SAME = 0.01
"""Shares of steps that differ by less are the same: a last batch more or less."""
WORDS = {
    Fraction(1, 2): "half",
    Fraction(1, 3): "a third",
    Fraction(1, 4): "a quarter",
    Fraction(1, 5): "a fifth",
    Fraction(1, 6): "a sixth",
    Fraction(2, 3): "two thirds",
    Fraction(3, 4): "three quarters",
}


def add_counts(
    arms: Mapping[str, Mapping[int, dict[str, Any]]], stages: Sequence[Mapping[str, Any]], validation: int | None
) -> None:
    """Adds to the records of arms what these do not say by themselves: "spent", optimisation steps of the result and of all that it goes
    on from; "validation", the number of samples it was selected on, and "apart", what these say of its selected and last epoch (see
    selection.apart_of); of networks together also "trained_on" (see records.trained_on). stages: all that the job used."""
    for records in arms.values():
        for record in records.values():
            spent, apart = steps_spent(record["fingerprint"], stages), apart_of(record)
            record |= {"spent": spent, "validation": validation, "apart": apart}
            record |= {"trained_on": trained_on(record["fingerprint"], stages)} if record.get("members") else {}


def steps_of(records: Mapping[int, Mapping[str, Any]]) -> float | None:
    """Mean over seeds of the optimisation steps of an arm ("spent" of its records); None where one does not say it."""
    spent = [record.get("spent") for record in records.values()]
    return None if not spent or None in spent else statistics.fmean(spent)


def share_text(steps: float | None, of: float | None) -> str:
    """`a third of the steps`, `37 % of the steps`, `2.5 times the steps`; nothing where they are as many, or not known."""
    if not steps or not of or same(steps, of):
        return ""
    share = steps / of
    if share > 1:
        return f"{share:.3g} times the steps"
    near = next((word for known, word in WORDS.items() if math.isclose(share, known, rel_tol=2 * SAME)), None)
    return f"{near or f'{100 * share:.2g} %'} of the steps"


def same(steps: float, other: float) -> bool:
    return math.isclose(steps, other, rel_tol=SAME)


def name_steps(arms: dict[str, dict[str, Any]]) -> None:
    """Says of every arm with more or fewer steps than the student how many it had, in its label."""
    of = (arms.get("student") or {}).get("steps")
    for arm in arms.values():
        text = share_text(arm.get("steps"), of)
        if text and not arm["label"].endswith(text):  # as it does where runs that said it are put together
            arm["label"] += f", {text}"


def control_of(arms: Mapping[str, Mapping[str, Any]], against: str) -> str:
    """The arm that the student is held against: `against` of its strategy, or the student alone. Where this had fewer steps than the
    student, it is the one on labels that had as many, if the run has it: more training is no merit of a teacher."""
    chosen = against if against in arms else ALONE
    steps, of = (arms.get(arm, {}).get("steps") for arm in (chosen, "student"))
    if steps and of and steps < of and not same(steps, of) and EQUAL in arms:
        chosen = EQUAL
    return ALONE if arms.get(chosen, {}).get("same_as") == ALONE else chosen
