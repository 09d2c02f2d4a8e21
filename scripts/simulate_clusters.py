"""clustering=gap: how well hidden groups of clients are found, where the constants of `gap` were chosen and where they were not.

    python scripts/simulate_clusters.py [--seeds 12] [--kmeans] [--grid]

Three kinds of clients. `drawn`: probabilities are drawn, no network is there; the constants of kdrun.federation.clusters were chosen on these,
with 10 classes, 8 to 100 clients and seeds below 1000. `trained`: each client is a softmax regression, trained on the samples that
kdrun.federation.partition deals it, of classes that are normal distributions; other shapes and seeds, and nothing was chosen on them.
`digits`: the same on scikit-learn's digits. Printed is the adjusted Rand index against the hidden groups, a mean over seeds; with an outlier,
one client says one class for everything. Of federations without groups: the share that is divided (k-means always divides). --kmeans: also
by k-means, which takes minutes. --grid: the mean index of `drawn` and `trained` for other constants of `gap`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import numpy as np

from kdrun.federation.clusters import ALONE, SMALLEST, agreement, by_gap, distances, kmeans
from kdrun.federation.partition import group_of, shares

FRESH = 10_000
"""First seed of the kinds that nothing was chosen on."""
PEOPLE: dict[str, tuple[tuple[int, int], ...]] = {
    "drawn": ((8, 2), (10, 2), (10, 5), (25, 5), (100, 5)),
    "trained": ((9, 3), (12, 2), (16, 4), (30, 6), (60, 4)),
    "digits": ((10, 2), (10, 5), (25, 5)),
}
"""Kind -> (clients, groups)."""
ALPHAS = {"drawn": (1.0, 5.0, 100.0), "trained": (0.7, 3.0, 30.0), "digits": (1.0, 5.0, 100.0)}


def drawn(
    clients: int, groups: int, alpha: float, seed: int, classes: int = 10, samples: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities [n, samples, classes], hidden group of each client): clients see their group's classes by Dirichlet(alpha) and a tenth of all, and
    weigh a noisy likelihood by how often they saw a class."""
    random = np.random.default_rng(seed)
    parts, of = np.array_split(random.permutation(classes), groups), np.arange(clients) * groups // clients
    evidence = random.normal(size=(samples, classes))
    evidence[np.arange(samples), random.integers(0, classes, samples)] += 3
    rows = []
    for group in of:
        prior = np.full(classes, 0.1 / classes)
        prior[parts[group]] += 0.9 * random.dirichlet(np.full(len(parts[group]), alpha))
        scores = random.uniform(0.6, 1.2) * (evidence + random.uniform(0.5, 1.5) * random.normal(size=evidence.shape))
        scores += np.log(prior + 1e-3)
        rows.append(np.exp(scores - scores.max(1, keepdims=True)))
    rows = np.stack(rows)
    return rows / rows.sum(2, keepdims=True), of


def trained(clients: int, groups: int, alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of clients that learn normal distributions with 12 inputs, two to four classes for each group."""
    random = np.random.default_rng(FRESH + seed)
    classes = int(groups * random.integers(2, 5)) if groups > 1 else 8
    centres = random.normal(size=(classes, 12))
    labels = np.arange(60 * clients) % classes
    inputs = centres[labels] + random.uniform(0.5, 1.0) * random.normal(size=(len(labels), 12))
    return learned(inputs, labels, clients, groups, alpha, FRESH + seed)


def digits(clients: int, groups: int, alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of clients that learn scikit-learn's digits."""
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return learned(inputs / 8 - 1, labels, clients, groups, alpha, FRESH + seed)


def learned(
    inputs: np.ndarray, labels: np.ndarray, clients: int, groups: int, alpha: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax regressions on what kdrun's partition deals out, 60 steps of gradient descent of a rate of their own; a fifth of all samples is public."""
    random = np.random.default_rng(seed)
    public = random.random(len(labels)) < 0.2
    split = {"train": labels[~public], "val": labels[public], "test": labels[public]}
    dealt = shares(split, clients, "groups", alpha, seed, 4, groups, 0.1).train
    x, y = np.c_[inputs, np.ones(len(inputs))], np.eye(labels.max() + 1)[labels]
    own, rows = np.flatnonzero(~public), []
    for places in dealt:
        weights, rate = np.zeros((x.shape[1], y.shape[1])), random.uniform(0.02, 0.1)
        a, b = x[own[places]], y[own[places]]
        for _ in range(60):
            weights += rate * a.T @ (b - softmax(a @ weights)) / len(a)
        rows.append(softmax(x[public] @ weights))
    return np.stack(rows), np.array([group_of(client, clients, groups) for client in range(clients)])


def softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


KINDS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"drawn": drawn, "trained": trained, "digits": digits}


def index(rule: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, of: np.ndarray, outlier: bool = False) -> float:
    """Agreement of a rule with the hidden groups; an outlier takes part in the clustering and is left out of the index."""
    kept = np.ones(len(of), bool)
    if outlier:
        rows, kept[len(of) // 2] = rows.copy(), False
        rows[len(of) // 2] = np.eye(rows.shape[2])[0]
    return agreement(rule(rows)[kept], of[kept])


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gap": lambda rows: by_gap(distances(rows)),
    "kmeans": lambda rows: kmeans(rows.reshape(len(rows), -1), 0),
}


def grid(seeds: int) -> None:
    """Mean index of `drawn` and `trained` for other constants of `gap`, and the share of federations without groups that is divided."""
    print(f"{'alone':>6}{'smallest':>10}{'drawn':>9}{'trained':>9}{'divided, drawn':>16}{'trained':>9}")
    cases = {}
    for kind, seed in itertools.product(("drawn", "trained"), range(seeds)):
        for (clients, groups), alpha in itertools.product((*PEOPLE[kind], (25, 1)), ALPHAS[kind]):
            rows, of = KINDS[kind](clients, groups, alpha, seed)
            cases.setdefault((kind, groups > 1), []).append((distances(rows), of))
    for alone, smallest in itertools.product((0.0, 0.1, 0.2, 0.3, 0.5), (0.0, 0.05, 0.1, 0.15, 0.2)):
        found = {
            key: np.mean([agreement(by_gap(between, alone, smallest), of) for between, of in those])
            for key, those in cases.items()
        }
        chosen = " *" if (alone, smallest) == (ALONE, SMALLEST) else ""
        said = f"{alone:>6}{smallest:>10}{found['drawn', True]:>9.3f}{found['trained', True]:>9.3f}"
        print(f"{said}{1 - found['drawn', False]:>16.2f}{1 - found['trained', False]:>9.2f}{chosen}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--kmeans", action="store_true")
    parser.add_argument("--grid", action="store_true")
    given = parser.parse_args()
    if given.grid:
        return grid(given.seeds)
    rules = {name: rule for name, rule in RULES.items() if given.kmeans or name != "kmeans"}
    heads = ["clients", "groups", "alpha", *rules, *(f"{name}, outlier" for name in rules)]
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
    for kind, make in KINDS.items():
        for (clients, groups), alpha in itertools.product(PEOPLE[kind], ALPHAS[kind]):
            made = [make(clients, groups, alpha, seed) for seed in range(given.seeds)]
            found = [
                np.mean([index(rule, *one, outlier) for one in made])
                for outlier in (False, True)
                for rule in rules.values()
            ]
            figures = " | ".join(f"{value:.2f}" for value in found)
            print(f"| {clients} {kind} | {groups} | {alpha:g} | {figures} |", flush=True)
        alone = [make(25, 1, alpha, seed)[0] for alpha in ALPHAS[kind] for seed in range(given.seeds)]
        divided = np.mean([RULES["gap"](rows).max() > 0 for rows in alone])
        print(f"| 25 {kind} | 1 | all | divided: {divided:.2f} |{' |' * (2 * len(rules) - 1)}", flush=True)


if __name__ == "__main__":
    main()
