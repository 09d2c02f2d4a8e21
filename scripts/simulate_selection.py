"""Which epoch is the headline: how often the rule of kdrun.job.selection errs, and what it costs or gains on test.

    python scripts/simulate_selection.py [--jobs 400] [--seeds 3]

Curves of a student and a student alone over 40 epochs are simulated, their true accuracy being known: every validation sample has a
difficulty, which all networks share, and an answer to it that changes from epoch to epoch. A job has several seeds on the same
validation set. Printed is, for every condition, how often the best epoch is the headline, where stages kept what they say of single
samples and where they did not, and the true accuracy of the best epoch and of the headline minus that of the last, means over jobs.
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
    ("rising by 2 points", rising, 201),
    ("rising by 2 points", rising, 1_000),
    ("falling by 4 points", overfitting, 201),
    ("falling by 4 points", overfitting, 1_000),
    ("falling by 4 points", overfitting, 10_000),
)


def answers(truth: np.ndarray, hard: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Whether one network is right [E, N] whose true accuracy is `truth` [E], on samples of this difficulty [N], standard normal."""
    from scipy.special import ndtri

    scores, right = random.standard_normal(len(hard)), []
    for bound in ndtri(truth):
        scores = KEPT * scores + np.sqrt(1 - KEPT**2) * random.standard_normal(len(hard))
        right.append(np.sqrt(HARD) * hard + np.sqrt(1 - HARD) * scores < bound)
    return np.array(right, float)


def job(curve: Any, samples: int, seeds: int, random: np.random.Generator) -> tuple[dict[str, Any], float]:
    """(arms as headline_of takes them, true accuracy of the best epoch minus that of the last, a mean over networks)."""
    truth, arms, gains = curve(np.arange(EPOCHS)), {}, []
    hard = random.standard_normal(samples)
    for arm in ("student", "alone"):
        for seed in range(seeds):
            right = answers(truth, hard, random)
            values = right.mean(1)
            best = int(values.argmax())
            gains.append(truth[best] - truth[-1])
            val = {"best": {"accuracy": values[best]}, "last": {"accuracy": values[-1]}}
            record = {
                "val": {**val, "epoch_best": best, "epochs": EPOCHS},
                "monitor": "accuracy",
                "validation": samples,
            }
            apart = {} if best == EPOCHS - 1 else dict(enumerate(right[best] - right[-1]))
            arms.setdefault(arm, {})[seed] = {**record, "apart": apart, "fingerprint": f"{arm}{seed}"}
    return arms, float(np.mean(gains))


def simulated(curve: Any, samples: int, jobs: int, seeds: int, seed: int = 0) -> dict[str, float]:
    """{"kept" and "not kept": share of jobs whose headline is the best epoch, where stages kept what they say of single samples and
    where they did not; "gain": true accuracy of best minus last; "headline": of the headline minus last, kept}."""
    random, kept, bare, gains = np.random.default_rng(seed), [], [], []
    for _ in range(jobs):
        arms, gain = job(curve, samples, seeds, random)
        kept.append(headline_of(arms)["which"] == "best")
        for record in (record for records in arms.values() for record in records.values()):
            record["apart"] = None
        bare.append(headline_of(arms)["which"] == "best")
        gains.append(gain)
    found = {"kept": kept, "not kept": bare, "gain": gains, "headline": np.multiply(kept, gains)}
    return {name: float(np.mean(values)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print(
        f"{given.jobs} jobs of {given.seeds} seeds and two arms, {EPOCHS} epochs; of a plateau at most {100 * LEVEL:.0f} % may err"
    )
    print(f"{'':34}{'best is the headline, %':>27}{'true points':>24}")
    print(
        f"{'true curve':24}{'validation':>10}{'rows kept':>13}{'not kept':>14}{'best - last':>13}{'headline - last':>17}"
    )
    for name, curve, samples in CONDITIONS:
        found = simulated(curve, samples, max(1, given.jobs // (10 if samples > 5_000 else 1)), given.seeds)
        shares = f"{100 * found['kept']:>13.1f}{100 * found['not kept']:>14.1f}"
        print(
            f"{name:24}{samples:>10,}{shares}{100 * found['gain']:>+13.2f}{100 * found['headline']:>+17.2f}", flush=True
        )


if __name__ == "__main__":
    main()
