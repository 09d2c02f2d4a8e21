"""How near a description is to a reference: n-grams in common, rare ones counting more. Functions on text. No torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

LONGEST = 4
"""Words of the longest n-grams."""


def grams(text: str) -> list[Counter[tuple[str, ...]]]:
    """For n = 1 to LONGEST how often each run of n words in lower case is there."""
    words = re.findall(r"\w+", text.lower())
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, LONGEST + 1)]


class Cider:
    """CIDEr with one reference (Vedantam et al. 2015, arXiv 1411.5726, equations 2 to 4), without stemming and without its factor of 10.

        score = mean over n of the cosine of g_n(text) and g_n(reference),  g_n = counts times log(N / documents with the n-gram)

    n-grams that every reference has weigh nothing; those that none has count as if one had. n for which the reference has no n-gram of any
    weight are left out of the mean; where that leaves none, the score is 1 for equal words, else 0.

    references: the N texts by which n-grams are weighed, at least one.
    """

    def __init__(self, references: Iterable[str]):
        counts = [grams(text) for text in references]
        self.documents = [Counter(gram for one in counts for gram in one[n]) for n in range(LONGEST)]
        self.number = max(len(counts), 1)

    def __call__(self, text: str, reference: str) -> float:
        """In 0..1."""
        said, wanted, cosines = grams(text), grams(reference), []
        for n in range(LONGEST):
            ours, theirs = self._weighed(n, said[n]), self._weighed(n, wanted[n])
            if not (size := _length(theirs)):
                continue
            common = sum(weight * theirs[gram] for gram, weight in ours.items() if gram in theirs)
            cosines.append(common / (size * _length(ours)) if common else 0.0)
        return min(sum(cosines) / len(cosines), 1.0) if cosines else float(said[0] == wanted[0])

    def _weighed(self, n: int, counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        weighed = {
            gram: count * math.log(self.number / max(self.documents[n][gram], 1)) for gram, count in counts.items()
        }
        return {gram: weight for gram, weight in weighed.items() if weight}


def _length(vector: dict[tuple[str, ...], float]) -> float:
    return math.sqrt(sum(weight**2 for weight in vector.values()))
