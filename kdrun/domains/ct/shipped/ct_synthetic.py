"""A cohort of volumes in Hounsfield units whose truth is known: the sign of the disease is visible in one window only.

Every patient has a body of soft tissue with two organs. Noise in the organs, and the lesions there, stay within a band of
HU that one window tells apart and the others clip to 0 or to 1. Lesions are denser than their organ in patients with the disease
(label 1) and less dense in the others, so that neither their number, size and place nor the level of the organ, which
differs from patient to patient, says anything. With `echo` there is a second, faint sign in soft tissue, which all windows
show, most of all narrow ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.source import TEST, TRAIN, VAL
from kdrun.domains.ct.series import AIR, MOST
from kdrun.domains.ct.source import Scans
from kdrun.domains.ct.windows import Window, views, windows
from kdrun.domains.ct.windows import window as window_of
from kdrun.problems import UserError

TARGETS = ("ct_synthetic",)

AMONG = ("lung", "mediastinal", "bone")
TISSUE, TISSUE_NOISE = 40.0, 15.0  # HU
RADIUS = 2.5  # of a lesion, in voxels of a slice
LESIONS = 2  # in each of the two organs, at most one where they overlap
NARROWEST = 120.0  # HU of a band in which organs, lesions and noise find room
PARTS = {"train": TRAIN, "val": VAL, "test": TEST}
BOUND = 12**0.5  # of the noise below, in standard deviations


@dataclass(frozen=True)
class CohortPlan:
    """low, high: the band in HU; depth, size: voxels; strength: of lesions, in standard deviations of the organ's noise;
    echo: of the sign in soft tissue, in HU; seed."""

    low: float
    high: float
    depth: int
    size: int
    strength: float
    echo: float
    seed: int


def ct_synthetic(
    window: str | list[Any] = "all",
    signal: str | list[Any] = "lung",
    among: list[Any] = AMONG,
    train: int = 200,
    val: int = 80,
    test: int = 120,
    scans: int = 1,
    depth: int = 16,
    size: int = 32,
    strength: float = 1.5,
    echo: float = 0.0,
    seed: int = 0,
    *,
    cache: Any = None,
) -> Scans:
    """float32 [N, V, depth, size, size] in 0..1; classes are healthy and diseased, half of each.

    window            which windows are channels; all: those of `among`
    signal, among     the one window of `among` that shows the lesions; UserError where others show all that it shows
    train, val, test  patients
    scans             of every patient, with other noise, all in the same split
    strength          of lesions; echo: of the sign that every window shows, in HU of soft tissue with a noise of 15 HU
    """
    known = windows(among)
    chosen = known if window == "all" else windows(window)
    low, high = band(window_of(signal), known)
    plan = CohortPlan(low, high, depth, size, strength, echo, seed)
    _check(plan, {"train": train, "val": val, "test": test}, scans)
    hu, labels, split, ids, patients = [], [], [], [], []
    for part, count in (("train", train), ("val", val), ("test", test)):
        for place in range(count):
            person = PARTS[part] * 1_000_000 + place
            for number in range(scans):
                hu.append(scan(plan, person, place % 2, number))
                labels.append(place % 2)
                split.append(PARTS[part])
                ids.append(person * 8 + number)
                patients.append(f"patient-{person:07d}")
    stack = np.stack(hu)
    return Scans(
        x=views(stack, chosen),
        y=np.array(labels, np.int64),
        split=np.array(split, np.int8),
        ids=np.array(ids, np.int64),
        classes=("healthy", "diseased"),
        name="ct_synthetic",
        source_hash=hashlib.sha256(stack.tobytes()).hexdigest(),
        determined=True,
        views=tuple(one.name for one in chosen),
        groups=tuple(patients),
    )


def band(signal: Window, among: tuple[Window, ...]) -> tuple[float, float]:
    """The widest range of HU, in what CT can show, that `signal` tells apart and no other window of `among`."""
    others = [other for other in among if other.name != signal.name]
    if len(others) == len(among):
        raise UserError(f"data.signal={signal.name}: not one of data.among ({', '.join(one.name for one in among)})")
    pieces = [(max(signal.low, AIR), min(signal.high, MOST))]
    for other in others:
        pieces = [
            piece
            for low, high in pieces
            for piece in ((low, min(high, other.low)), (max(low, other.high), high))
            if piece[1] > piece[0]
        ]
    widest = max(pieces, key=lambda piece: piece[1] - piece[0], default=(0.0, 0.0))
    if widest[1] - widest[0] < NARROWEST:
        raise UserError(
            f"data.signal={signal.name}: the other windows of data.among show nearly all that it shows",
            f"at least {NARROWEST:g} HU have to be its own; for example data.among=[{','.join(AMONG)}] with lung or bone",
        )
    return widest


def scan(plan: CohortPlan, person: int, label: int, number: int = 0) -> np.ndarray:
    """int16 [depth, size, size] of HU. Person and seed decide about all but the sign of the lesions and of the echo."""
    z, y, x = np.meshgrid(*(_coordinates(count) for count in (plan.depth, plan.size, plan.size)), indexing="ij")
    drawn = iter(_uniform(plan, "anatomy", person, 64))

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(drawn)

    sign = 1 if label else -1
    wide, deep = between(0.8, 0.95), between(0.65, 0.85)
    inside = (x / wide) ** 2 + (y / deep) ** 2 <= 1
    noise = _noise(plan, person, number).reshape(z.shape)
    hu = np.where(inside, TISSUE + TISSUE_NOISE * noise, AIR)
    third = (plan.high - plan.low) / 3
    spread = third / (BOUND + plan.strength)  # noise and lesion together stay within a third of the band
    level = (plan.low + plan.high) / 2 + between(-0.45, 0.45) * third
    radius = 2 * RADIUS / plan.size
    for side in (-1, 1):
        centre = (between(-0.1, 0.1), between(-0.1, 0.1) * deep, side * wide * between(0.42, 0.5))
        half = (between(0.75, 0.95), deep * between(0.5, 0.6), wide * between(0.28, 0.34))
        organ = sum(((axis - c) / h) ** 2 for axis, c, h in zip((z, y, x), centre, half, strict=True)) <= 1
        hu = np.where(organ, level + spread * noise, hu)
        lesion = np.zeros_like(organ)
        for _ in range(LESIONS):
            place = [c + between(-0.5, 0.5) * h for c, h in zip(centre, half, strict=True)]
            lesion |= organ & _sphere((z, y, x), place, radius, plan)
        hu = hu + np.where(lesion, sign * plan.strength * spread, 0)
    place = (between(-0.4, 0.4), deep * between(-0.6, 0.6), 0.0)
    hu = hu + np.where(_sphere((z, y, x), place, radius, plan) & (hu > -200) & (hu < 195), sign * plan.echo, 0)
    return np.rint(np.clip(hu, AIR, MOST)).astype(np.int16)


def _check(plan: CohortPlan, sizes: dict[str, int], scans: int) -> None:
    for name, count in sizes.items():
        if not 2 <= count < 1_000_000:
            raise UserError(f"data.{name}={count}: 2 to 999,999 patients")
    if not 1 <= scans <= 8:
        raise UserError(f"data.scans={scans}: 1 to 8 scans of a patient")
    if plan.depth < 4 or plan.size < 16:
        raise UserError(f"data.depth={plan.depth}, data.size={plan.size}: at least 4 slices of 16 voxels")
    if plan.strength < 0 or not 0 <= plan.echo <= 60:
        raise UserError(
            f"data.strength={plan.strength}, data.echo={plan.echo}: 0 or more, and an echo of 60 HU at most"
        )


def _coordinates(count: int) -> np.ndarray:
    """The middles of voxels along a side from -1 to 1."""
    return (2 * np.arange(count) + 1) / count - 1


def _sphere(axes: tuple[np.ndarray, ...], place: Any, radius: float, plan: CohortPlan) -> np.ndarray:
    """A ball in voxels: radius is in halves of a side of a slice."""
    stretch = (plan.depth / plan.size, 1.0, 1.0)
    return sum(((axis - c) * s) ** 2 for axis, c, s in zip(axes, place, stretch, strict=True)) <= radius**2


def _uniform(plan: CohortPlan, purpose: str, person: int, count: int) -> list[float]:
    words = randomness.bits(randomness.key("ct_synthetic", purpose, plan.seed, person), np.arange(count))
    return ((words >> np.uint64(11)) * 2.0**-53).tolist()


def _noise(plan: CohortPlan, person: int, number: int) -> np.ndarray:
    """[voxels] of mean 0 and variance 1, at most BOUND from 0: four uniform numbers of 16 bits added up, which is exact."""
    key = randomness.key("ct_synthetic", "noise", plan.seed, person, number)
    words = randomness.bits(key, np.arange(plan.depth * plan.size * plan.size))
    total = sum(((words >> np.uint64(16 * part)) & np.uint64(0xFFFF)).astype(np.float64) for part in range(4))
    return (total - 2 * 65535) / (4 * (65536**2 - 1) / 12) ** 0.5
