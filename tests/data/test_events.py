"""Simulated events: against a slow pixel, their parameters, their hash."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdrun.domains.images.shipped.events import events, shifted, simulated
from kdrun.problems import UserError


def slow(image, frames, threshold, refractory, amplitude):
    """Counts [frames, 2, H, W], one pixel and one moment after another."""
    corners = [(0, 0), (1, 0.5), (0, 1), (0, 0)]
    height, width = image.shape

    def seen(row, column, y, x):
        top, left = math.floor(row + y), math.floor(column + x)
        value = 0.0
        for i, j in ((top, left), (top + 1, left), (top, left + 1), (top + 1, left + 1)):
            if i < height and j < width:
                value += (1 - abs(row + y - i)) * (1 - abs(column + x - j)) * image[i, j] / 255
        return math.log(value + 0.1)

    counts = np.zeros((frames, 2, height, width), int)
    for row in range(height):
        for column in range(width):
            last, silent = seen(row, column, 0, 0), 0
            for moment in range(1, 25):
                number = min((moment - 1) // 8 if moment % 8 == 0 else moment // 8, 2)
                part = moment / 8 - number
                (y0, x0), (y1, x1) = corners[number], corners[number + 1]
                level = seen(row, column, amplitude * (y0 + part * (y1 - y0)), amplitude * (x0 + part * (x1 - x0)))
                if silent == 0 and abs(level - last) >= threshold:
                    counts[(moment - 1) * frames // 24, int(level < last), row, column] += 1
                    last, silent = level, refractory
                else:
                    silent = max(silent - 1, 0)
    return counts


@pytest.mark.parametrize("refractory", [0, 2])
def test_events_are_those_of_a_slow_pixel(refractory):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 6)).astype(np.uint8)
    found = simulated(images, 4, 0.3, refractory, 0.0, 1.5, np.random.default_rng(0))
    for image, counts in zip(images, found, strict=True):
        assert np.array_equal(counts.reshape(4, 2, 5, 6), slow(image, 4, 0.3, refractory, 1.5))
    assert found.sum() > 50


def test_an_even_image_has_no_events_but_at_the_border_and_by_noise():
    even = np.full((3, 9, 9), 200, np.uint8)
    silent = simulated(even, 3, 0.3, 1, 0.0, 1.5, np.random.default_rng(0))
    assert silent[:, :, :7, :7].sum() == 0 and silent.sum() > 0
    noisy = simulated(even, 3, 0.3, 1, 0.01, 1.5, np.random.default_rng(0))[:, :, :7, :7]
    assert noisy.sum() / (3 * 49 * 2 * 24) == pytest.approx(0.01, rel=0.3)


def test_a_shift_is_linear_between_pixels():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert np.array_equal(shifted(image, np.array([1.0, 0.0]))[0, :2], image[0, 1:])
    assert shifted(image, np.array([0.0, 0.5]))[0, 0].tolist() == [0.5, 1.5, 2.5, 1.5]


def test_events_of_digits_say_that_they_are_simulated_and_hash_their_parameters():
    images = events(samples=40)
    assert images.x.shape == (40, 8, 8, 8) and images.name == "simulated_events_digits"
    assert "simulated" in images.notes[-1]
    hashes = {events(samples=40, **change).content_hash for change in ({}, {"noise": 0.0}, {"seed": 1}, {"frames": 2})}
    assert len(hashes) == 4 and images.content_hash in hashes


@pytest.mark.parametrize(
    "change, words",
    [({"of": "digit"}, "closest: digits"), ({"frames": 25}, "frames 1..24"), ({"samples": 0}, "1..1797")],
)
def test_what_cannot_be_simulated_is_told(change, words):
    with pytest.raises(UserError, match=words):
        events(**change)
