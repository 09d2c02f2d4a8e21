"""What a guess that looks at no input reaches, and what it passes by chance."""

from __future__ import annotations

import math
from bisect import bisect_left

import torch


class Guess(float):
    """What a guess that looks at no input reaches by the PREFLIGHT metric, in float64.

    limit: what such a guess passes by chance in 1 of 40 cases, on as many samples; a network that does not pass it is no
    better than the guess. what: the guess in words.
    """

    def __new__(cls, value: float, limit: float, what: str = "a guess that looks at no input") -> Guess:
        guess = super().__new__(cls, value)
        guess.limit, guess.what = limit, what
        return guess


def largest_share(targets: list[torch.Tensor], what: str, right: list[torch.Tensor] | None = None) -> Guess:
    """The share of right answers of always naming the commonest value.

    right: bool, where a network is right on these targets. Then the limit is that of an exact McNemar test: only what one of
    the two has right and the other has not tells them apart. Without it, that of a binomial over as many samples.
    """
    flat = torch.cat(targets)
    counts = torch.bincount(flat)
    largest, seen = int(counts.max()), len(flat)
    if right is None:
        chance = _by_chance(seen, largest / seen)
    else:
        unlike = int((torch.cat(right) != (flat == counts.argmax())).sum())
        chance = largest + 2 * _by_chance(unlike, 0.5) - unlike if unlike else largest
    # Half a sample more: a share is a multiple of 1 / seen, perhaps rounded to float32.
    return Guess(largest / seen, (chance + 0.5) / seen, what)


def _by_chance(trials: int, share: float) -> int:
    """How many of so many trials succeed by chance at most, but in 1 of 40 cases: the 97.5 % quantile of a binomial.

    Searched for, as the `binom` of scipy.stats takes a second to import.
    """
    from scipy.special import bdtr

    return bisect_left(range(trials + 1), 0.975, key=lambda successes: bdtr(successes, trials, share))


def symmetric(value: float, deviation: float, better: int) -> Guess:
    """A guess whose figure has a standard deviation by chance; better: 1 where larger is better, else -1."""
    return Guess(value, value + better * 1.96 * (0.0 if math.isnan(deviation) else deviation))
