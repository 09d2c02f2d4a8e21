"""Rewards of texts that come with kdrun: functions of lists (learning.policy.COLUMNS), one number for each text."""

from __future__ import annotations

import re
from collections.abc import Sequence

REWARDS = ("exact_match", "last_number")

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def exact_match(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 for a text that equals its reference, spaces and line breaks apart; else 0."""
    return [float(same(*pair)) for pair in zip(texts, references, strict=True)]


def last_number(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the last number of a text is the last number of its reference, commas between digits aside; else 0, also where either has
    no number. What stands before it is free, as a chain of thought is."""
    pairs = zip(map(_last, texts), map(_last, references), strict=True)
    return [float(number is not None and number == right) for number, right in pairs]


def same(text: str, reference: str) -> bool:
    """Whether two texts are equal, spaces and line breaks apart."""
    return " ".join(text.split()) == " ".join(reference.split())


def _last(text: str) -> float | None:
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None
