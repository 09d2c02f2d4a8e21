"""One set of arrays from those of several clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kdrun.federation.messages import Arrays, Update
from kdrun.problems import UserError, closest

HOW = ("fedavg", "median", "trimmed_mean")


def check(how: str, trim: float) -> None:
    """Raises UserError for a way that there is not, or a trim outside [0, 0.5)."""
    if how not in HOW:
        raise UserError(f"aggregation.how={how}: one of {', '.join(HOW)}{closest(str(how), HOW)}")
    if not 0 <= trim < 0.5:
        raise UserError(f"aggregation.trim={trim}: a share of each end in [0, 0.5)")


def combine(updates: Mapping[int, Update], how: str = "fedavg", trim: float = 0.1) -> dict[str, np.ndarray]:
    """Array by array, in the order of the clients' numbers whatever the order in which they answered.

    fedavg        mean weighted by samples: McMahan et al. 2017 (arXiv 1602.05629), algorithm 1
    median        coordinate-wise median, clients count alike: Yin et al. 2018 (arXiv 1803.01498), definition 1
    trimmed_mean  coordinate-wise mean without the `trim` share of smallest and of largest values, rounded down
                  (definition 2 there), clients count alike
    Sums are in float64 and cast back. Integers (counts of batches) take the largest: they are no weights.
    Raises ValueError without updates, UserError for another way or a trim outside [0, 0.5).
    """
    if not updates:
        raise ValueError("there is nothing to combine")
    check(how, trim)
    ordered = [updates[client] for client in sorted(updates)]
    total = sum(update.samples for update in ordered)
    combined = {}
    for name, first in ordered[0].arrays.items():
        arrays = [update.arrays[name] for update in ordered]
        if first.dtype.kind != "f":
            combined[name] = np.asarray(np.max(np.stack(arrays), axis=0), first.dtype)
        elif how == "fedavg":
            mean = np.zeros(first.shape, np.float64)
            for update, array in zip(ordered, arrays, strict=True):
                mean += (update.samples / total) * array.astype(np.float64)
            combined[name] = np.asarray(mean, first.dtype)
        else:
            stacked = np.sort(np.stack(arrays).astype(np.float64), axis=0)
            if how == "median":
                middle = np.median(stacked, axis=0)
            else:
                cut = int(trim * len(ordered))
                middle = stacked[cut : len(ordered) - cut].mean(axis=0)
            combined[name] = np.asarray(middle, first.dtype)
    return combined


def clip(updates: Mapping[int, Update], sent: Arrays, limit: float) -> tuple[dict[int, Update], list[int]]:
    """(updates of which none is farther than `limit` from what was sent, clients whose update was farther).

    The distance is the Euclidean norm over all floating-point arrays of an update together; a longer step d becomes
    d * limit / |d|: the norm thresholding of Sun et al. 2019 (arXiv 1911.07963), with the same limit for all.
    In float64, where the squares of the largest float32 are still finite. Integers stay: they are no weights.
    """
    found, longer = {}, []
    for client, update in updates.items():
        steps = {
            name: array.astype(np.float64) - sent[name].astype(np.float64)
            for name, array in sorted(update.arrays.items())  # in one order, so that the sum below has the same bits
            if array.dtype.kind == "f"
        }
        with np.errstate(over="ignore"):  # of float64 numbers beyond 1e154; their step becomes 0
            norm = math.sqrt(sum(float(np.square(step).sum()) for step in steps.values()))
        if norm > limit:
            longer.append(client)
            near = {
                name: np.asarray(sent[name] + step * (limit / norm), update.arrays[name].dtype)
                for name, step in steps.items()
            }
            update = replace(update, arrays={**update.arrays, **near})
        found[client] = update
    return found, sorted(longer)
