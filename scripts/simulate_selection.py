"""Which epoch is the headline: how often the rule of kdrun.job.selection errs, and what it costs or gains on test.

    python scripts/simulate_selection.py [--jobs 400] [--seeds 3]

Curves of a student and a student alone over 40 epochs are simulated, their true accuracy being known: every validation sample has a
difficulty, which all networks share, and an answer to it that changes from epoch to epoch. A job has several seeds on the same
validation set. Printed is, for every condition, how often the best epoch is the headline, and the true accuracy of the best epoch
and of the headline minus that of the last, in points, means over jobs.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from kdrun.job.selection import LEVEL, headline_of

EPOCHS = 40
KEPT = 0.8
"""Correlation of answers of one network between two epochs."""
HARD = 0.7
"""Share of the variance of an answer that is the sample's difficulty, the same for all networks."""


def plateau(epoch: np.ndarray) -> np.ndarray:
    """True accuracy that rises to 80 % and stays: from epoch 10 on no epoch is better than the last."""
    return 0.8 - 0.5 * np.exp(-epoch / 2.0)


def rising(epoch: np.ndarray) -> np.ndarray:
    """That goes on rising a little, as with a learning rate that decays: the last epoch is the best."""
    return 0.78 + 0.02 * epoch / (EPOCHS - 1) - 0.5 * np.exp(-epoch / 2.0)


def overfitting(epoch: np.ndarray) -> np.ndarray:
    """That rises to 80 % at epoch 12 and falls by 4 points until the last: labels learned by heart."""
    return plateau(epoch) - 0.04 * np.clip(epoch - 12, 0, None) / (EPOCHS - 13)


CONDITIONS = (
    ("plateau", plateau, 201),
    ("plateau", plateau, 1_000),
    ("rising", rising, 201),
    ("rising", rising, 1_000),
    ("overfitting by 4 points", overfitting, 201),
    ("overfitting by 4 points", overfitting, 10_000),
)


def answers(truth: np.ndarray, hard: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Validation accuracy [E] of one network whose true accuracy is `truth` [E] on samples of this difficulty [N], standard normal."""
    from scipy.special import ndtri

    scores, right = random.standard_normal(len(hard)), []
    for bound in ndtri(truth):
        scores = KEPT * scores + np.sqrt(1 - KEPT**2) * random.standard_normal(len(hard))
        right.append((np.sqrt(HARD) * hard + np.sqrt(1 - HARD) * scores < bound).mean())
    return np.array(right)


def job(
    curve: Any, samples: int, seeds: int, random: np.random.Generator
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """(arms as headline_of takes them, true accuracy at the (best, last) epoch of every network)."""
    truth, arms, known = curve(np.arange(EPOCHS)), {}, []
    hard = random.standard_normal(samples)
    for arm in ("student", "alone"):
        for seed in range(seeds):
            values = answers(truth, hard, random)
            best = int(values.argmax())
            known.append((truth[best], truth[-1]))
            val = {
                "best": {"accuracy": values[best]},
                "last": {"accuracy": values[-1]},
                "epoch_best": best,
                "epochs": EPOCHS,
            }
            record = {"val": val, "monitor": "accuracy", "validation": samples, "fingerprint": f"{arm}{seed}"}
            arms.setdefault(arm, {})[seed] = record
    return arms, known


def simulated(curve: Any, samples: int, jobs: int, seeds: int, seed: int = 0) -> dict[str, float]:
    """{"best": share of jobs whose headline is the best epoch, "gain": true points of best minus last, "headline": of the headline
    minus last}."""
    random, chosen, gains = np.random.default_rng(seed), [], []
    for _ in range(jobs):
        arms, known = job(curve, samples, seeds, random)
        chosen.append(headline_of(arms)["which"] == "best")
        gains.append(np.mean([best - last for best, last in known]))
    share, gains = np.array(chosen), 100 * np.array(gains)
    return {"best": float(share.mean()), "gain": float(gains.mean()), "headline": float((share * gains).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print(
        f"{given.jobs} jobs of {given.seeds} seeds and two arms, {EPOCHS} epochs; at most {100 * LEVEL:.0f} % may err on a plateau"
    )
    print(f"{'true curve':26}{'validation':>10}{'best is headline':>18}{'best - last':>13}{'headline - last':>17}")
    for name, curve, samples in CONDITIONS:
        found = simulated(curve, samples, max(1, given.jobs // (10 if samples > 5_000 else 1)), given.seeds)
        figures = f"{100 * found['best']:>16.1f} %{found['gain']:>+13.2f}{found['headline']:>+17.2f}"
        print(f"{name:26}{samples:>10,}{figures}", flush=True)


if __name__ == "__main__":
    main()
