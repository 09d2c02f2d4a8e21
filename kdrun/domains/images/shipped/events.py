"""Simulated events: what an event camera that moves in three saccades over still images might report."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdrun.data.source import parts_hash
from kdrun.domains.images.shipped.digits import digits
from kdrun.domains.images.shipped.fashion_mnist import fashion_mnist
from kdrun.domains.images.source import Images
from kdrun.problems import UserError, closest

TARGETS = ("events",)

BASES = {"digits": digits, "fashion_mnist": fashion_mnist}
FORMAT = 1  # of the simulation; raised when the same parameters give other events
CORNERS = np.array([[0.0, 0.0], [1.0, 0.5], [0.0, 1.0], [0.0, 0.0]])
"""Where each saccade begins and ends, in (y, x) times `amplitude`: a triangle, as N-MNIST has (Orchard et al. 2015, arXiv 1507.07629)."""
MOMENTS = 8  # of time in each saccade
DARK = 0.1  # added to pixels in 0..1 before the logarithm
BLOCK = 1000  # images simulated at a time; noise is drawn by block


def events(
    of: str = "digits",
    frames: int = 4,
    threshold: float = 0.3,
    refractory: int = 1,
    noise: float = 0.002,
    amplitude: float = 1.5,
    samples: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    *,
    cache: str | Path | None = None,
) -> Images:
    """uint8 [N, 2 * frames, H, W]: numbers of events of each pixel, (brighter, darker) for each frame in turn.

    Three saccades of 8 moments each shift an image along a triangle. A pixel reports an event where the logarithm of its intensity (plus
    0.1) has changed by the threshold since its last event, and then none for the refractory time. No device was measured.

    of: digits or fashion_mnist. frames: into how many equal parts of time events are counted, 1..24.
    threshold: of the change, above 0. refractory: moments without an event after each, from 0.
    noise: probability of an event without cause, of each pixel, polarity and moment. amplitude: of a saccade, in pixels.
    samples: this many images at equal distances; null: all. seed: of the noise. root: folder of the images, as their own source reads it.
    Raises UserError for values outside these.
    """
    if of not in BASES:
        near = closest(of, list(BASES))
        raise UserError(
            f"data.of={of}: events are simulated of {' or '.join(BASES)}{f', closest: {near}' if near else ''}"
        )
    time = MOMENTS * (len(CORNERS) - 1)
    if not (1 <= frames <= time and threshold > 0 and refractory >= 0 and 0 <= noise < 1 and amplitude > 0):
        raise UserError(
            f"data.frames={frames} threshold={threshold} refractory={refractory} noise={noise} amplitude={amplitude}",
            f"allowed: frames 1..{time}, threshold and amplitude above 0, refractory from 0, noise from 0 to below 1",
        )
    base = BASES[of](root, cache=cache)
    if samples is not None and not 1 <= samples <= len(base):
        raise UserError(f"data.samples={samples}: {of} has {len(base)} images, so 1..{len(base)}")
    rows = np.linspace(0, len(base) - 1, samples or len(base)).astype(np.int64)
    random = np.random.default_rng(seed)
    blocks = [base.x[rows[start : start + BLOCK], 0] for start in range(0, len(rows), BLOCK)]
    x = np.concatenate([simulated(block, frames, threshold, refractory, noise, amplitude, random) for block in blocks])
    parameters = [FORMAT, of, frames, threshold, refractory, noise, amplitude, samples, seed]
    return replace(
        base,
        x=x,
        y=base.y[rows],
        split=base.split[rows],
        ids=base.ids[rows],
        name=f"simulated_events_{of}",
        source_hash=parts_hash(base.content_hash, parameters),
        decoded=hashlib.sha256(x.tobytes()).hexdigest(),
        determined=False,
        notes=(*base.notes, f"Events are simulated from still images of {of}, not recorded by an event camera"),
    )


def simulated(
    images: np.ndarray,
    frames: int,
    threshold: float,
    refractory: int,
    noise: float,
    amplitude: float,
    random: np.random.Generator,
) -> np.ndarray:
    """uint8 [N, 2 * frames, H, W] of images uint8 [N, H, W]; see `events`."""
    time = MOMENTS * (len(CORNERS) - 1)
    counts = np.zeros((len(images), frames, 2, *images.shape[1:]), np.uint8)
    intensity = images.astype(np.float32) / 255
    last = np.log(intensity + DARK)
    rest = np.zeros(images.shape, np.int64)  # moments for which a pixel is still silent
    for moment in range(1, time + 1):
        saccade, part = divmod(moment / MOMENTS, 1) if moment < time else (len(CORNERS) - 2, 1.0)
        begin, end = CORNERS[int(saccade)], CORNERS[int(saccade) + 1]
        level = np.log(shifted(intensity, amplitude * (begin + part * (end - begin))) + DARK)
        change, ready = level - last, rest == 0
        fired = np.stack([ready & (change >= threshold), ready & (change <= -threshold)], axis=1)
        caused = fired.any(axis=1)
        last = np.where(caused, level, last)
        rest = np.where(caused, refractory, np.maximum(rest - 1, 0))
        counts[:, (moment - 1) * frames // time] += fired | (random.random(fired.shape) < noise)
    return counts.reshape(len(images), 2 * frames, *images.shape[1:])


def shifted(images: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Images [N, H, W] seen from (y, x) = `by` pixels further, both from 0: linear between pixels, 0 outside."""
    whole, (down, right) = np.floor(by).astype(int), by - np.floor(by)
    height, width = images.shape[1:]
    wide = np.pad(images, ((0, 0), (0, whole[0] + 1), (0, whole[1] + 1)))[:, whole[0] :, whole[1] :]
    rows = (1 - down) * wide[:, :height] + down * wide[:, 1 : height + 1]
    return ((1 - right) * rows[:, :, :width] + right * rows[:, :, 1 : width + 1]).astype(np.float32)
