"""Corrupted inputs against slow references, and what must not change them."""

import math

import numpy as np
import pytest

from kdrun.data.randomness import normals
from kdrun.domains.images import corruptions
from kdrun.domains.images.corruptions import CORRUPTIONS, corrupted
from kdrun.domains.tabular.corruptions import noisy_rows

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.random((3, 2, 9, 7), dtype=np.float32)
IDS = np.array([4, 70, 11])


def slow_blur(image, deviation):
    """One pixel at a time: the sum over a square around it, with mirrored edges, of normalised Gaussian weights."""
    reach = max(1, math.ceil(4 * deviation))
    offsets = range(-reach, reach + 1)
    total = sum(math.exp(-(i * i + j * j) / (2 * deviation**2)) for i in offsets for j in offsets)

    def mirrored(place, length):
        while not 0 <= place < length:
            place = -place - 1 if place < 0 else 2 * length - place - 1
        return place

    height, width = image.shape
    out = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            for i in offsets:
                for j in offsets:
                    weight = math.exp(-(i * i + j * j) / (2 * deviation**2)) / total
                    out[y, x] += weight * image[mirrored(y + i, height), mirrored(x + j, width)]
    return out


@pytest.mark.parametrize("level", (0, 4))
def test_blur_is_the_written_out_sum(level):
    found = corrupted("blur", level, PIXELS, IDS)
    deviation = corruptions.BLUR[level] * 7
    for sample in range(2):
        expected = slow_blur(PIXELS[sample, 1].astype(float), deviation)
        np.testing.assert_allclose(found[sample, 1], expected, atol=1e-5)


def test_brightness_and_contrast_pixel_by_pixel():
    bright, flat = corrupted("brightness", 2, PIXELS, IDS), corrupted("contrast", 2, PIXELS, IDS)
    for sample, channel, y, x in ((0, 0, 0, 0), (2, 1, 8, 6), (1, 0, 4, 3)):
        value = float(PIXELS[sample, channel, y, x])
        mean = sum(map(float, PIXELS[sample, channel].flatten())) / 63
        assert bright[sample, channel, y, x] == pytest.approx(min(1.0, value + 0.3), abs=1e-6)
        assert flat[sample, channel, y, x] == pytest.approx(mean + 0.45 * (value - mean), abs=1e-6)


def test_noise_is_standard_normal_and_grows_with_the_level():
    drawn = normals(np.arange(400), 500, seed=0)
    assert drawn.shape == (400, 500) and np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01
    assert abs(((drawn < 1.6449).mean()) - 0.95) < 0.002
    rows = drawn - drawn.mean()
    assert abs((rows[:-1] * rows[1:]).mean()) < 0.01 and abs((rows[:, :-1] * rows[:, 1:]).mean()) < 0.01
    grey = np.full((2, 1, 30, 30), 0.5, dtype=np.float32)
    for level, deviation in enumerate(corruptions.NOISE[:3]):
        assert corrupted("noise", level, grey, np.array([1, 2])).std() == pytest.approx(deviation, rel=0.06)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_sample_is_corrupted_alike_in_every_batch_and_order(name):
    whole = corrupted(name, 3, PIXELS, IDS, seed=5)
    again = corrupted(name, 3, PIXELS[::-1], IDS[::-1], seed=5)[::-1]
    alone = np.concatenate([corrupted(name, 3, PIXELS[i : i + 1], IDS[i : i + 1], seed=5) for i in range(3)])
    np.testing.assert_array_equal(whole, again)
    np.testing.assert_array_equal(whole, alone)
    assert whole.dtype == np.float32 and whole.min() >= 0 and whole.max() <= 1
    assert not np.array_equal(whole, PIXELS)


def test_seed_and_sample_decide_the_noise():
    same = np.repeat(PIXELS[:1], 2, axis=0)
    found = corrupted("noise", 2, same, np.array([1, 2]))
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found, corrupted("noise", 2, same, np.array([1, 2]), seed=1))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_level_is_further_away(name):
    distances = [np.abs(corrupted(name, level, PIXELS, IDS) - PIXELS).mean() for level in range(5)]
    assert distances == sorted(distances) and distances[0] < distances[-1]


def test_volumes_are_blurred_along_all_three_axes():
    volume = np.zeros((1, 1, 9, 9, 9), dtype=np.float32)
    volume[0, 0, 4, 4, 4] = 1
    found = corrupted("blur", 4, volume, np.array([0]))[0, 0]
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found[4, 4, 5] > 0
    assert found[4, 4, 5] == pytest.approx(found[5, 4, 4]) == pytest.approx(found[4, 5, 4])


def test_rows_get_noise_in_units_of_the_training_deviation():
    rows = np.zeros((300, 40), dtype=np.float32)
    for level, deviation in enumerate((0.1, 0.2, 0.4, 0.7, 1.0)):
        assert noisy_rows(level, rows, np.arange(300)).std() == pytest.approx(deviation, rel=0.03)
