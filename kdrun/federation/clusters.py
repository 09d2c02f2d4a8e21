"""Which clients are alike, from what they predict on public samples; and how far that agrees with groups that are known. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def cluster(
    predictions: np.ndarray,
    rule: str,
    threshold: float | None = None,
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """int64 [n]: the cluster of each client, from 0, numbered in the order of their first members.

    predictions  float [n, U, C]: class probabilities of n clients on U public samples
    rule         gap     see `by_gap`: nothing is known beforehand
                 greedy  see `greedy`, with `threshold`
                 kmeans  k-means on the predictions, with the k of the largest silhouette (see `kmeans`)
                 known   `groups` as they are: an upper bound, which no server knows
                 one     all in one cluster
    seed         of k-means' beginnings; other rules ignore it
    """
    count = len(predictions)
    if rule == "one":
        return np.zeros(count, np.int64)
    if rule == "known":
        return numbered(np.asarray(groups))
    if rule == "kmeans":
        return kmeans(predictions.reshape(count, -1), seed)
    between = distances(predictions)
    return by_gap(between) if rule == "gap" else greedy(between, threshold)


def distances(predictions: np.ndarray) -> np.ndarray:
    """float64 [n, n]: Frobenius norms of differences of predictions [n, U, C] (arXiv 2605.11165), over sqrt(U).

    By the root of U, a distance does not depend on how many public samples there are: it is the root of the mean squared distance
    of two probability vectors, from 0 to sqrt(2).
    """
    flat = predictions.reshape(len(predictions), -1).astype(np.float64)
    squares = np.array([np.square(flat - row).sum(axis=1) for row in flat])
    return np.sqrt(squares / predictions.shape[1])


ALONE, SMALLEST = 1 / 5, 1 / 10
"""Of the rule `gap`: the share of clients that may be in a cluster by themselves, and the least gap, as a share of the largest distance. Chosen and
tested on other simulated clients by scripts/simulate_clusters.py."""


def by_gap(between: np.ndarray, alone: float = ALONE, smallest: float = SMALLEST) -> np.ndarray:
    """int64 [n]: the two nearest clusters are joined again and again (average linkage: the mean distance of their members) until the next
    pair is further apart than the one before by the largest gap of all steps.

    Steps count that leave at most `alone` of the clients (rounded up) by themselves, and two clusters of two and more where there are
    at least four clients, so that a client which learned otherwise makes no group of all others. Where the largest gap is
    less than `smallest` of the largest distance, or fewer than three clients are there, all are one cluster.
    between: float [n, n]
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    count = len(between)
    whole = np.zeros(count, np.int64)
    if count < 3:
        return whole
    steps = linkage(squareform(between, checks=False), "average")
    joined = steps[:, 2]
    for place in np.argsort(-np.diff(joined), kind="stable"):
        if joined[place + 1] - joined[place] < max(smallest * joined[-1], 1e-9):
            break
        labels = fcluster(steps, (joined[place] + joined[place + 1]) / 2, "distance")
        sizes = np.bincount(labels)[1:]
        if (sizes == 1).sum() <= math.ceil(alone * count) and (count < 4 or (sizes > 1).sum() > 1):
            return numbered(labels)
    return whole


def greedy(between: np.ndarray, threshold: float) -> np.ndarray:
    """int64 [n]: neighbours are clients at a distance of at most `threshold`. Again and again the client with most neighbours that
    are in no cluster yet (of several the first) makes one with these (arXiv 2605.11165)."""
    near = between <= threshold
    found = np.full(len(between), -1, np.int64)
    while (found < 0).any():
        free = found < 0
        counts = np.where(free, (near & free).sum(axis=1), -1)
        found[near[counts.argmax()] & free] = found.max() + 1
    return numbered(found)


def kmeans(rows: np.ndarray, seed: int) -> np.ndarray:
    """int64 [n]: k-means of rows [n, d], with k from 2 to n - 1 of the largest silhouette; one cluster where rows are all alike, or
    fewer than three.

    n rows lie in n - 1 dimensions: in these they are as far apart, and d may be tens of thousands."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances, silhouette_score

    rows = rows.astype(np.float64)
    distinct = len(np.unique(rows, axis=0))
    axes, lengths, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    rows = axes * lengths
    between = pairwise_distances(rows)
    best, found = -math.inf, np.zeros(len(rows), np.int64)
    for count in range(2, min(distinct, len(rows) - 1) + 1):
        labels = KMeans(count, n_init=10, random_state=seed).fit(rows).labels_
        score = silhouette_score(between, labels, metric="precomputed")
        if score > best:
            best, found = score, labels.astype(np.int64)
    return numbered(found)


def numbered(labels: np.ndarray, nobody: int | None = None) -> np.ndarray:
    """int64 [n]: the same clusters, numbered in the order of their first members; `nobody` stays as it is."""
    order: dict[int, int] = {}
    kept = [label if label == nobody else order.setdefault(label, len(order)) for label in labels.tolist()]
    return np.array(kept, np.int64)


def agreement(labels: Sequence[int], groups: Sequence[int]) -> float:
    """The adjusted Rand index of two divisions of the same clients: 1 where they are equal, about 0 by chance (Hubert and Arabie 1985)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(groups, labels))
