"""How often the statistics of kdrun err, and what they see: prints the tables that docs/statistics.md holds.

    python scripts/simulate_statistics.py [--quick]

Differences of pairs of seeds are drawn, not trained. All shares are percent of simulated comparisons; n is the number of seeds of each
arm. Twenty seconds of one core; --quick takes two and is good to a few points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from kdrun.differences import LEVEL, holm, power_of, seeds_needed, visible_effect
from kdrun.learning.resampling import two_levels

SEEDS = (3, 5, 10)
EFFECT, DEVIATION = 2.07, 1.95
"""Points: a true effect of distillation, and the deviation of single pairs of seeds from it, as a student of twelve epochs had them."""
MARGIN = 0.5
Row = tuple[str, *tuple[float, ...]]


def t_test(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean [J], two-sided p [J]) of Student's t, of each row of differences [J, n]."""
    n = values.shape[1]
    mean, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):  # seeds that are equal to the digit
        return mean, 2 * stdtr(n - 1, -np.abs(mean) / error)


def welch_test(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two-sided p [J] of Welch's t, of the rows of two arms [J, n] and [J, m]."""
    parts = [side.var(1, ddof=1) / side.shape[1] for side in (first, second)]
    error = np.sqrt(sum(parts))
    degrees = error**4 / sum(part**2 / (side.shape[1] - 1) for part, side in zip(parts, (first, second), strict=True))
    return 2 * stdtr(degrees, -np.abs(first.mean(1) - second.mean(1)) / error)


def over_seeds_bootstrap(values: np.ndarray, random: np.random.Generator, draws: int = 1000) -> np.ndarray:
    """Whether the percentile bootstrap over seeds excludes 0 [J]: what kdrun does not do."""
    n = values.shape[1]
    chosen = np.indices((n,) * n).reshape(n, -1).T if n <= 5 else random.integers(n, size=(draws, n))
    times = np.stack([(chosen == seed).sum(1) for seed in range(n)]) / n
    means = np.concatenate([np.percentile(part @ times, [2.5, 97.5], axis=1).T for part in np.array_split(values, 20)])
    return (means[:, 0] > 0) | (means[:, 1] < 0)


def per_seeds(name: str, measured: Callable[[int], float]) -> Row:
    return (name, *(100 * measured(n) for n in SEEDS))


def errors_over_seeds(tries: int) -> Iterator[Row]:
    """Two equal arms: how often each method calls them different."""
    drawn = {
        "": lambda random, shape: random.standard_normal(shape),
        ", skewed differences": lambda random, shape: random.exponential(1.0, shape) - 1,
    }
    for suffix, draw in drawn.items():

        def values(n: int, draw: Callable = draw) -> np.ndarray:
            return draw(np.random.default_rng(n), (tries, n))

        yield per_seeds(
            f"bootstrap over seeds (not used){suffix}",
            lambda n, values=values: over_seeds_bootstrap(values(n)[: tries // 4], np.random.default_rng(0)).mean(),
        )
        yield per_seeds(f"paired t{suffix}", lambda n, values=values: (t_test(values(n))[1] < LEVEL).mean())

    def unpaired(n: int, spread: float) -> float:
        random = np.random.default_rng(n)
        first, second = random.standard_normal((tries, n)), spread * random.standard_normal((tries, n))
        return (welch_test(first, second) < LEVEL).mean()

    yield per_seeds("Welch's t", lambda n: unpaired(n, 1.0))
    yield per_seeds("Welch's t, one arm deviates three times as much", lambda n: unpaired(n, 3.0))


def test_sets(n: int, random: np.random.Generator, samples: int) -> np.ndarray:
    """Rightness [2 arms, n seeds, samples] of equal arms on one test set: samples differ in how hard they are, arms in which of them
    they are good at (chance in the samples), seeds in how good they are (chance in training)."""
    hard = random.normal(2.5, 2.0, samples)
    arms = random.normal(0.0, 1.0, (2, 1, samples))
    seeds = random.normal(0.0, 0.15, (2, n, 1))
    chance = 1 / (1 + np.exp(-(hard + arms + seeds)))
    return (random.random(chance.shape) < chance).astype(float)


def errors_over_samples(tries: int, samples: int = 450, draws: int = 200) -> Iterator[Row]:
    """Two arms that are equal over all test sets, each comparison on one of 450 samples."""
    names = (
        "paired t over seeds",
        "bootstrap over samples, seeds fixed",
        "both resampled, percentiles",
        "two-level bootstrap",
    )
    found: dict[str, list[float]] = {name: [] for name in names}
    for n in SEEDS:
        random, hits = np.random.default_rng(n), np.zeros(4)
        for _ in range(tries):
            right = test_sets(n, random, samples)
            apart = (right[0] - right[1]).T
            observed = apart.mean(0)
            chosen = random.integers(samples, size=(draws, samples))
            times = np.stack([np.bincount(one, minlength=samples) for one in chosen]) / samples
            drawn = times @ apart
            low, high = np.percentile(drawn.mean(1), [2.5, 97.5])
            both = np.take_along_axis(drawn, random.integers(n, size=(draws, n)), axis=1).mean(1)
            lowest, highest = np.percentile(both, [2.5, 97.5])
            p = two_levels(observed, drawn, samples)["p_value"]
            hits += [t_test(observed[None])[1][0] < LEVEL, low > 0 or high < 0, lowest > 0 or highest < 0, p < LEVEL]
        for name, share in zip(names, hits / tries, strict=True):
            found[name].append(100 * share)
    yield from ((name, *shares) for name, shares in found.items())


def families(tries: int, comparisons: int = 7) -> Iterator[Row]:
    """Seven arms against one control, all equal: how often at least one of them is called different."""
    shares: dict[str, list[float]] = {"each at 5 %": [], "Holm": []}
    for n in SEEDS:
        random = np.random.default_rng(n)
        control = random.standard_normal((tries, n))
        p = np.stack([t_test(random.standard_normal((tries, n)) - control)[1] for _ in range(comparisons)], axis=1)
        shares["each at 5 %"].append(100 * (p.min(1) < LEVEL).mean())
        shares["Holm"].append(100 * np.mean([min(holm(one)) < LEVEL for one in p.tolist()]))
    yield from ((f"{name}, any of {comparisons}", *values) for name, values in shares.items())


def seen(tries: int) -> Iterator[Row]:
    """What a true effect of 2.07 points looks like where pairs of seeds deviate by 1.95."""

    def values(n: int) -> np.ndarray:
        return np.random.default_rng(n).normal(EFFECT, DEVIATION, (tries, n))

    def helped(n: int) -> float:
        mean, p = t_test(values(n))
        return ((p < LEVEL) & (mean > 0)).mean()

    def welch(n: int) -> float:
        random = np.random.default_rng(n)
        first, second = random.normal(0, DEVIATION / np.sqrt(2), (2, tries, n))
        return ((welch_test(first + EFFECT, second) < LEVEL) & (first.mean(1) + EFFECT > second.mean(1))).mean()

    def covered(n: int) -> float:
        found = values(n)
        half = stdtrit(n - 1, 1 - LEVEL / 2) * found.std(1, ddof=1) / np.sqrt(n)
        return (np.abs(found.mean(1) - EFFECT) <= half).mean()

    yield per_seeds("called an effect, paired t", helped)
    yield per_seeds("called an effect, Welch's t (arms of unrelated seeds)", welch)
    yield per_seeds("95 % interval holds the true effect", covered)


def stated(tries: int) -> Iterator[Row]:
    """How good the statement "these seeds could have shown d points" is: d is made from the deviation that was observed."""

    def ratio(n: int) -> np.ndarray:
        return np.random.default_rng(n).standard_normal((tries, n)).std(1, ddof=1)

    def power(n: int) -> np.ndarray:
        unit = visible_effect(1 / np.sqrt(n), n - 1)
        return np.asarray([power_of(unit * one, 1 / np.sqrt(n), n - 1) for one in ratio(n)[:2000]])

    yield per_seeds("power at the stated effect, median", lambda n: float(np.median(power(n))))
    yield per_seeds("power at the stated effect, mean", lambda n: power(n).mean())
    yield per_seeds("stated effect of at least the true one", lambda n: (ratio(n) >= 1).mean())


def settled(tries: int) -> Iterator[Row]:
    """Undecided after n seeds, then as many as were said to settle it (the first n among them, 100 at most)."""

    def outcome(effect: float, n: int) -> tuple[float, float]:
        values = np.random.default_rng(n).normal(effect, DEVIATION, (tries, 100))
        mean, p = t_test(values[:, :n])
        first = p < LEVEL
        deviations = values[:, :n].std(1, ddof=1)
        later = np.zeros(tries, bool)
        for place in np.flatnonzero(~first):
            needed = seeds_needed(max(abs(mean[place]), MARGIN), deviations[place]) or 100
            later[place] = t_test(values[place : place + 1, : max(n + 1, min(needed, 100))])[1][0] < LEVEL
        return float((first | later).mean()), float(later.sum() / max((~first).sum(), 1))

    yield per_seeds("equal arms called different, in the end", lambda n: outcome(0.0, n)[0])
    yield per_seeds("true effect of 2.07: called an effect, in the end", lambda n: outcome(EFFECT, n)[0])


def no_larger(tries: int) -> Iterator[Row]:
    """How often "no difference larger than 0.50 points" is said of a difference of just that, where pairs deviate by half a point."""

    def said(n: int, effect: float) -> float:
        values = np.random.default_rng(n).normal(effect, MARGIN, (tries, n))
        mean, p = t_test(values)
        half = stdtrit(n - 1, 1 - LEVEL / 2) * values.std(1, ddof=1) / np.sqrt(n)
        return ((p >= LEVEL) & (np.abs(mean) + half <= MARGIN)).mean()

    yield per_seeds("said of a true difference of 0.50", lambda n: said(n, MARGIN))
    yield per_seeds("said of equal arms", lambda n: said(n, 0.0))


SECTIONS: dict[str, tuple[Callable[[int], Iterator[Row]], int, int]] = {
    "Equal arms called different, over seeds": (errors_over_seeds, 40_000, 4_000),
    "Equal arms called different, over seeds and 450 test samples": (errors_over_samples, 2_000, 150),
    "Seven arms, all equal to their control": (families, 20_000, 2_000),
    f"A true effect of {EFFECT} points, pairs deviate by {DEVIATION}": (seen, 40_000, 4_000),
    "The smallest effect that seeds could have shown": (stated, 40_000, 4_000),
    "Going on with the number of seeds that was named": (settled, 10_000, 1_000),
    "No difference larger than 0.50 points": (no_larger, 40_000, 4_000),
}
"""Heading -> (rows, simulated comparisons, and of --quick)."""


def table(heading: str, rows: Sequence[Row]) -> list[str]:
    """A Markdown table, shares in percent."""
    lines = [f"| {heading}, % | {' | '.join(f'n = {n}' for n in SEEDS)} |", f"| --- |{' ---: |' * len(SEEDS)}"]
    return lines + [f"| {name} | {' | '.join(f'{share:.1f}' for share in shares)} |" for name, *shares in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulated comparisons")
    quick = parser.parse_args().quick
    for heading, (rows, many, few) in SECTIONS.items():
        print("\n".join(table(heading, list(rows(few if quick else many)))), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
