"""Differences between two sets of seeds: intervals and tests by Student's t, corrections, and what more seeds would show.

Nothing here resamples seeds: a percentile bootstrap over three seeds calls one in three comparisons of equal arms an effect
at a nominal 5 % (docs/statistics.md). scipy is imported where it is needed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

LEVEL = 0.05
"""Two-sided error rate of tests; intervals are 95 %."""
POWER = 0.8
"""With which an effect is said to be visible."""
MARGIN = 0.005
"""Half a point: the smallest difference of a share that anyone would act on."""
NO_SPREAD = 1e-7
"""Deviation below which seeds count as equal: what is left is rounding."""
MOST_SEEDS = 100
"""What takes more than that many is not worth settling: no number of seeds is named."""

PAIRED, WELCH = "paired t", "Welch's t"
TWO_LEVEL, SAMPLES = "two-level bootstrap", "bootstrap over samples"
"""Methods. The third is over seeds and test samples together, the fourth says nothing about seeds."""

MORE = "max"
"""The direction of a metric of which more is better; of the others it is "min"."""
BETTER, WORSE, SMALL, UNDECIDED, SINGLE = "better", "worse", "small", "undecided", "single"
"""Decisions: an effect in one direction, none that is larger than a margin, nothing yet, and one seed alone."""

IDENTICAL = "identical in every seed"
"""What is said where all differences are exactly 0."""


@dataclass(frozen=True)
class Difference:
    """first - second of a metric, over seeds.

    better     "max" or "min": of which metric more or less is better; `decision` and `improvement` go by it, figures are as they are
    n          pairs of seeds; of Welch's t the seeds of both sides together
    counts     seeds of either side
    sd         deviation of the difference of one seed of either side; None, as what follows, where there is one pair only
    error      standard error of the mean; degrees: degrees of freedom of the t distribution
    interval   95 %, two-sided, for the mean over all seeds that could have been drawn (on this test set)
               (of another `level`: missing it in this share of all cases)
    p_value    two-sided, for itself; p_holm: corrected for the `comparisons` made together (see `corrected`)
    visible    the smallest true effect that as many seeds with this deviation would show with 80 % power
    improvement  share of all pairs of one seed of each side in which the first is better, ties half (Agarwal et al. 2021,
               arXiv 2108.13264, probability of improvement); None where single results are not known
    values     differences seed by seed; () of Welch's t
    margin     the smallest difference that matters where a config says it (`margin`), in the unit of records; None: that of the metric
    """

    mean: float
    n: int
    counts: tuple[int, int]
    method: str = PAIRED
    sd: float | None = None
    error: float | None = None
    degrees: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    visible: float | None = None
    improvement: float | None = None
    values: tuple[float, ...] = ()
    p_holm: float | None = None
    comparisons: int = 1
    level: float = LEVEL
    better: str = MORE
    margin: float | None = None

    @property
    def gain(self) -> float:
        """The mean, positive where the first is better."""
        return self.mean if self.better == MORE else -self.mean

    @property
    def p(self) -> float | None:
        """What is held against the level: the corrected p value where there is one."""
        return self.p_value if self.p_holm is None else self.p_holm

    @property
    def identical(self) -> bool:
        """Whether both sides have the same result in every one of several pairs of seeds (and on every test sample, where these
        are known): nothing that chance or a larger test set decides."""
        return self.method != WELCH and self.n > 1 and self.mean == 0 and self.error == 0

    def decision(self, margin: float | None = MARGIN) -> str:
        """BETTER or WORSE where p is below the level; SMALL where the interval lies within +-margin (None: no margin is known);
        SINGLE where nothing is known of chance in training (one seed, or samples alone); else UNDECIDED."""
        if self.interval is None or self.p is None or self.method == SAMPLES:
            return SINGLE
        if self.p < self.level:
            return BETTER if self.gain > 0 else WORSE
        return SMALL if margin is not None and max(map(abs, self.interval)) <= margin else UNDECIDED

    def at_level(self, level: float) -> Difference:
        """The same comparison by itself, at a level of its own (see kdrun.looks): its interval and the visible effect are those of this
        level."""
        plain = replace(self, level=level, p_holm=None, comparisons=1)
        return plain if self.error is None or self.degrees is None else _tested(plain)

    def seeds_to_settle(self, margin: float | None = MARGIN) -> int | None:
        """Seeds that would show, with 80 % power, a true effect as large as the mean here, or as the margin if that is larger;
        None where that is not known or more than MOST_SEEDS."""
        if self.sd is None:
            return None
        sd = self.sd
        if sd < NO_SPREAD and self.error is not None:  # what the exact test leaves open, see _tested
            sd = self.error * math.sqrt(min(self.counts))
        return seeds_needed(max(abs(self.mean), margin or 0.0), sd, corrected_for=self.comparisons)

    def as_record(self) -> dict[str, Any]:
        """Plain values, as records hold them; a margin where the config says one."""
        known = {name: value for name, value in asdict(self).items() if name != "margin" or value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


def difference_of(first: Mapping[Any, float], second: Mapping[Any, float], better: str = MORE) -> Difference | None:
    """first - second, each seed -> result: over the pairs where two seeds are shared, else by Welch's t over all; None where
    one side is empty. With one seed of either side there is a mean and nothing else. better: "max" or "min" of the metric."""
    shared = [seed for seed in first if seed in second]
    if not first or not second:
        return None
    if len(shared) >= 2 or (shared and min(len(first), len(second)) < 2):
        pairs = [(first[seed], second[seed]) for seed in shared]
        sides, plain = list(zip(*pairs, strict=True)), _paired([one - two for one, two in pairs])
    else:
        sides = [list(first.values()), list(second.values())]
        plain = _welch(*sides)
    return replace(plain, improvement=probability_of_improvement(*sides, better), better=better)


def _paired(values: Sequence[float]) -> Difference:
    """By Student's t over the differences of single seeds."""
    n, mean = len(values), statistics.fmean(values)
    plain = Difference(mean, n, (n, n), PAIRED, values=tuple(values))
    if n < 2 or not all(map(math.isfinite, values)):
        return plain
    sd = statistics.stdev(values)
    return _tested(replace(plain, sd=sd, error=sd / math.sqrt(n), degrees=n - 1))


def _welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """By Welch's t (Welch 1947), of two independent sets of seeds."""
    counts = len(first), len(second)
    mean = statistics.fmean(first) - statistics.fmean(second)
    plain = Difference(mean, sum(counts), counts, WELCH)
    if min(counts) < 2 or not all(map(math.isfinite, (*first, *second))):
        return plain
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    variance = sum(parts)
    below = sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))
    degrees = variance**2 / below if below else float(sum(counts) - 2)
    sd = math.sqrt(statistics.variance(first) + statistics.variance(second))
    return _tested(replace(plain, sd=sd, error=math.sqrt(variance), degrees=degrees))


def from_moments(mean: float, sd: float | None, n: int) -> Difference:
    """A paired difference of which mean, deviation and number are known and single seeds are not."""
    plain = Difference(mean, n, (n, n), PAIRED)
    if n < 2 or sd is None:
        return plain
    return _tested(replace(plain, sd=sd, error=sd / math.sqrt(n), degrees=n - 1))


def _tested(found: Difference) -> Difference:
    """With interval, p value and the visible effect, from mean, error, degrees and level.

    Scores are counts of test samples, so a few seeds may differ by the same amount by chance, and t would be infinite. Where there
    is no spread the error is that which gives t the p value of the exact test: of signs for pairs (2 / 2^n), of ranks for two sets of
    seeds (2 / (n choose n1))."""
    if found.error < NO_SPREAD and abs(found.mean) > NO_SPREAD:
        orders = 2.0**found.n if found.method == PAIRED else math.comb(found.n, found.counts[0])
        found = replace(found, error=abs(found.mean) / _quantile(found.degrees, min(2 / orders, 0.999)))
    low, high = interval_of(found.mean, found.error, found.degrees, found.level)
    visible = visible_effect(found.error, found.degrees, level=found.level)
    p_value = p_value_of(found.mean, found.error, found.degrees)
    return replace(found, interval=(low, high), p_value=p_value, visible=visible)


def interval_of(mean: float, error: float, degrees: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of Student's t that misses the true mean in a share `level` of all cases."""
    half = _quantile(degrees, level) * error
    return mean - half, mean + half


def _quantile(degrees: float, level: float) -> float:
    """What |t| exceeds with this probability."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - level / 2))


def p_value_of(mean: float, error: float, degrees: float) -> float:
    """Two-sided p of Student's t; without any spread 0, or 1 where the mean is 0 as well."""
    from scipy.special import stdtr

    if error == 0:
        return float(mean == 0)
    return float(2 * stdtr(degrees, -abs(mean) / error))


def power_of(effect: float, error: float, degrees: float, level: float = LEVEL) -> float:
    """Probability that a two-sided t test at `level` calls a true effect of this size one, in its own direction."""
    from scipy.special import nctdtr, stdtrit

    if error == 0:
        return 1.0
    bound, shift = float(stdtrit(degrees, 1 - level / 2)), abs(effect) / error
    if shift > bound + 30:  # beyond what nctdtr computes, and certain
        return 1.0
    return float(1 - nctdtr(degrees, shift, bound))


def visible_effect(error: float, degrees: float, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest true effect with this power, by bisection to a thousandth of the standard error."""
    if error == 0:
        return 0.0
    low, high = 0.0, 4.0
    while power_of(high * error, error, degrees, level) < power:
        low, high = high, 2 * high
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if power_of(middle * error, error, degrees, level) < power else (low, middle)
    return high * error


def seeds_needed(effect: float, sd: float, power: float = POWER, corrected_for: int = 1) -> int | None:
    """The smallest number of pairs of seeds whose t test shows a true effect of this size with this power, where the
    difference of one pair has the deviation `sd`; None where it takes more than MOST_SEEDS.

    corrected_for: comparisons made together: the level is LEVEL divided by it, the strictest of Holm's steps.
    """
    if effect == 0:
        return None
    level, low, high = LEVEL / corrected_for, 1, MOST_SEEDS

    def enough(n: int) -> bool:
        return power_of(effect, sd / math.sqrt(n), n - 1, level) >= power

    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def probability_of_improvement(first: Sequence[float], second: Sequence[float], better: str = MORE) -> float:
    """Share of all pairs in which the first is better, ties half (Agarwal et al. 2021, arXiv 2108.13264, section 4.3)."""
    larger = sum((one > two) + (one == two) / 2 for one in first for two in second) / (len(first) * len(second))
    return larger if better == MORE else 1 - larger


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values corrected for their number (Holm 1979), in their order; None stays and counts for nothing."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        found[place] = largest
    return found


def corrected(differences: Mapping[Any, Difference]) -> dict[Any, Difference]:
    """The same with `p_holm` and `comparisons`, of those that have a p value."""
    adjusted = holm([one.p_value for one in differences.values()])
    number = sum(p is not None for p in adjusted)
    return {
        name: one if p is None else replace(one, p_holm=p, comparisons=number)
        for (name, one), p in zip(differences.items(), adjusted, strict=True)
    }


def read_resampled(found: Mapping[str, Any]) -> Difference:
    """A difference over test samples of a record (see learning.resampling); those of earlier versions leave seeds out."""
    seeds = found.get("seeds")
    method = found.get("method") or SAMPLES
    p_holm, comparisons = found.get("p_holm"), found.get("comparisons", 1)
    known = {"interval": tuple(found["interval"]), "margin": found.get("margin")}
    known |= {"p_value": found.get("p_value"), "p_holm": p_holm}
    error, degrees = found.get("error"), found.get("degrees")
    if error is not None:
        known |= {"error": error, "degrees": degrees, "visible": visible_effect(error, degrees)}
    return Difference(found["mean"], seeds or 1, (seeds or 1,) * 2, method, comparisons=comparisons, **known)


def read_difference(found: Mapping[str, Any]) -> Difference:
    """A difference of a record. Of records that had a bootstrap over seeds (`interval_t` beside `interval`), and of those
    before them, Student's t is computed from the seeds, or from mean, deviation and number."""
    if "method" in found:
        known = {name: found[name] for name in Difference.__dataclass_fields__ if name in found}
        known |= {name: tuple(known[name]) for name in ("counts", "values", "interval") if known.get(name) is not None}
        return Difference(**known)
    values = found.get("values") or ()
    if values and None not in values:
        return _paired(values)
    return from_moments(found["mean"], found.get("sd"), found.get("n") or 1)
