"""seeds=auto: how often the rule of kdrun.looks errs, how many seeds it takes, and whether its intervals hold.

    python scripts/simulate_seeds.py [--jobs 20000] [--slopes]

Differences of pairs of seeds are drawn from distributions of one mean and deviation 1; a true effect is told in deviations. Printed is, for
each, how often a job ends with an effect (with none there: its error), how often in the wrong direction, how often it ends as small,
the mean number of seeds, how often the last interval holds the true mean, and what 5 and 20 seeds with one t test would say. The
margin of small is that of a metric of which one deviation is a point. --slopes prints the constants of kdrun.looks again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.special import stdtr, stdtrit

from kdrun.looks import SLOPES, Rule, looks_until

MARGIN = 0.5
DRAWN: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "skewed": lambda random, shape: random.exponential(1.0, shape) - 1.0,
    "heavy tails": lambda random, shape: random.standard_t(5, shape) / np.sqrt(5 / 3),
    "two groups": lambda random, shape: (
        random.choice([-0.95, 0.95], shape) + np.sqrt(1 - 0.95**2) * random.standard_normal(shape)
    ),
}
"""Name -> differences [jobs, seeds] of mean 0 and deviation 1. "two groups": seeds that find one of two solutions."""


def tested(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(p [J], means [J], half widths of intervals of this level [J]) of Student's t, of every row of differences [J, n]."""
    n = values.shape[1]
    means, errors = values.mean(1), values.std(1, ddof=1) / np.sqrt(n)
    return 2 * stdtr(n - 1, -np.abs(means) / errors), means, stdtrit(n - 1, 1 - level / 2) * errors


def simulated(name: str, effect: float, most: int, jobs: int, seed: int = 0) -> dict[str, float]:
    """Shares and means over jobs; see the head of this file."""
    rule = Rule.of(looks_until(most), MARGIN)
    values = DRAWN[name](np.random.default_rng(seed), (jobs, most)) + effect
    ended = np.zeros(jobs, bool)
    effects, wrong, small, held = (np.zeros(jobs, bool) for _ in range(4))
    seeds = np.zeros(jobs)
    for look in rule.looks:
        p, means, half = tested(values[:, :look], rule.level(look))
        decided = p < rule.level(look)
        within = ~decided & (np.abs(means) + half <= rule.margin)
        now = ~ended & (decided | within | (look == rule.looks[-1]))
        effects |= now & decided
        wrong |= now & decided & (means * effect <= 0)
        small |= now & within
        held |= now & (np.abs(means - effect) <= half)
        seeds[now] = look
        ended |= now
    once = {n: float((tested(values[:, :n], 0.05)[0] < 0.05).mean()) for n in (5, most)}
    found = {"effect": effects, "wrong": wrong, "small": small, "seeds": seeds, "held": held}
    return {key: float(value.mean()) for key, value in found.items()} | {"5 seeds": once[5], "most": once[most]}


def slopes(draws: int = 2_000_000) -> dict[int, float]:
    """Largest number of seeds -> the slope with which one in twenty jobs without an effect ends with one."""
    parts: dict[int, list[np.ndarray]] = {most: [] for most in SLOPES}
    random = np.random.default_rng(0)
    for _ in range(draws // 50_000):
        values, smallest = random.standard_normal((50_000, max(SLOPES))), np.full(50_000, np.inf)
        for look in SLOPES:
            smallest = np.minimum(smallest, tested(values[:, :look], 0.05)[0] / look)
            parts[look].append(smallest)
    return {most: float(np.quantile(np.concatenate(part), 0.05)) for most, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--slopes", action="store_true")
    given = parser.parse_args()
    if given.slopes:
        print(*(f"{most}: {slope:.6f}" for most, slope in slopes().items()), sep="\n")
        return
    print(
        f"{given.jobs:,} jobs for each row; levels {', '.join(f'{SLOPES[20] * n:.4f} at {n}' for n in looks_until(20))} seeds"
    )
    heads = ("ends with effect", "wrong sign", "small", "seeds", "interval holds", "t, 5 seeds", "t, 20 seeds")
    print(f"{'differences':14}{'true effect':>12}", *(f"{head:>{len(head) + 2}}" for head in heads), sep="")
    for name in DRAWN:
        for effect in (0.0, 0.5, 1.0, 2.0, 4.0):
            found = simulated(name, effect, 20, given.jobs)
            wrong = "-" if effect == 0 else f"{100 * found['wrong']:.1f} %"
            shown = [f"{100 * found['effect']:.1f} %", wrong, f"{100 * found['small']:.1f} %", f"{found['seeds']:.1f}"]
            shown += [f"{100 * found[key]:.1f} %" for key in ("held", "5 seeds", "most")]
            print(
                f"{name:14}{effect:>12}",
                *(f"{text:>{len(head) + 2}}" for text, head in zip(shown, heads, strict=True)),
                sep="",
            )


if __name__ == "__main__":
    main()
