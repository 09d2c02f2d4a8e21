"""Generated texts that are not learned from. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

GRAM = 4
"""Words in a row that are looked at for repetition."""


@dataclass(frozen=True)
class TextFilter:
    """Which texts are learned from, by their words (what stands between spaces).

    shortest  texts of fewer words are left out; 1: empty ones
    longest   texts of more words are left out; None: none is
    repeated  texts are left out in which more than this share of all places of GRAM words in a row has words that stood before in the
              same text; None: none is
    likeliest share that is learned from of the rows of each "type" that say a "score" of themselves, those with the highest
    """

    shortest: int = 0
    longest: int | None = None
    repeated: float | None = None
    likeliest: float = 1.0

    def why_not(self, text: str) -> str | None:
        """Why a text is left out; None where it is not."""
        words = text.split()
        if len(words) < self.shortest:
            return "empty" if self.shortest == 1 else f"fewer than {self.shortest} words"
        if self.longest is not None and len(words) > self.longest:
            return f"more than {self.longest} words"
        if self.repeated is not None and repetition(words) > self.repeated:
            return "repeated"
        return None

    def kept(self, rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], Counter[str]]:
        """(the rows of Task.targets_of without texts that are left out, how many were for each reason).

        A row whose "text" is a list of texts keeps its places: None stands in the lists of a row for what is left out. A row without a
        text is left out whole.
        """
        found, left = [], Counter()
        for row in rows:
            texts = [row["text"]] if isinstance(row["text"], str) else row["text"]
            reasons = [self.why_not(text) for text in texts]
            left.update(reason for reason in reasons if reason)
            if all(reasons):
                continue
            if not isinstance(row["text"], str):
                lists = {name: value for name, value in row.items() if isinstance(value, list)}
                row = row | {
                    name: [None if reason else one for one, reason in zip(value, reasons, strict=True)]
                    for name, value in lists.items()
                }
            found.append(row)
        unlikely = self._unlikely(found)
        left.update({"unlikely": len(unlikely)} if unlikely else {})
        return [row for place, row in enumerate(found) if place not in unlikely], left

    def _unlikely(self, rows: list[dict[str, Any]]) -> set[int]:
        """Places of rows whose score is not among the highest of their type."""
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            if "score" in row:
                places.setdefault(row.get("type", ""), []).append(place)
        ordered = [sorted(some, key=lambda place: (-rows[place]["score"], place)) for some in places.values()]
        return {place for some in ordered for place in some[math.ceil(self.likeliest * len(some)) :]}


def repetition(words: list[str]) -> float:
    """Share of places of GRAM words in a row whose words stood before in the text; 0 of fewer words."""
    grams = [tuple(words[place : place + GRAM]) for place in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
