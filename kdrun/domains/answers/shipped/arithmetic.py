"""Sums and differences with exact answers, drawn: nothing to fetch, so small that a small language model learns them in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kdrun.domains.language.source import Documents
from kdrun.domains.language.source import documents as documents_of
from kdrun.problems import UserError

TARGETS = ("arithmetic",)


ANSWER = "="
"""Stands before the answer behind the steps that lead to it."""


@dataclass(frozen=True)
class Chain:
    """A number that is the answer of a text with steps."""

    number: int
    mark: ClassVar[str] = ANSWER

    def right(self, text: str) -> bool:
        """Whether the number stands behind the last `=`, and nothing else."""
        return text.rpartition(ANSWER)[2].strip() == str(self.number)


def arithmetic(
    samples: int = 2_000, terms: int = 2, largest: int = 49, seed: int = 0, steps: bool = False
) -> Documents:
    """Chats of a question such as `7 + 12 - 3`, and its answer `16`, all different.

    samples  questions; terms: numbers in each; largest: of these numbers, which begin at 0
    steps    what is left of the question after each operation stands before the answer: `19 - 3 = 16`. Of an answer only what stands
             behind the last `=` is judged.
    """
    possible = (largest + 1) ** terms * 2 ** (terms - 1)
    for name, value, least in (("samples", samples, 40), ("terms", terms, 2), ("largest", largest, 1)):
        if value < least:
            raise UserError(f"data.{name}={value}: at least {least}")
    if samples > possible // 2:
        raise UserError(
            f"data.samples={samples}: there are {possible} such questions, and at most half of them are drawn",
            "fewer data.samples, more data.terms, or a larger data.largest",
        )
    random = np.random.default_rng(seed)
    drawn: dict[str, int] = {}
    while len(drawn) < samples:
        numbers = random.integers(0, largest + 1, terms)
        signs = [1, *random.choice([1, -1], terms - 1).tolist()]
        words = [f"{'+' if sign > 0 else '-'} {number}" for sign, number in zip(signs, numbers, strict=True)]
        question = " ".join(words).removeprefix("+ ")
        drawn[question] = int(sum(sign * number for sign, number in zip(signs, numbers.tolist(), strict=True)))
    written = {question: _steps(question, answer) if steps else str(answer) for question, answer in drawn.items()}
    chats = [(("user", question), ("assistant", text)) for question, text in written.items()]
    known = [Chain(answer) for answer in drawn.values()] if steps else ()
    return documents_of(chats, "arithmetic", determined=True, known=known)


def _steps(question: str, answer: int) -> str:
    """`19 - 3 = 16` of `7 + 12 - 3`."""
    left, sign, number, *rest = question.split()
    lines = []
    while rest:
        left = str(int(left) + int(f"{sign}{number}"))
        lines.append(" ".join([left, *rest]))
        sign, number, *rest = rest
    return " ".join([*(f"{line} ;" for line in lines[:-1]), *lines[-1:], ANSWER, str(answer)])
