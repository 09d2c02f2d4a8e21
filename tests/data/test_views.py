"""Views of images: what they compute, what stays, and which there are."""

import itertools

import numpy as np
import pytest

from kdrun.domains.ct.source import Scans
from kdrun.domains.images.source import Images
from kdrun.domains.images.views import COLOURS, STEEPEST, VIEWS, view
from kdrun.problems import UserError


def images(channels=3, dtype=np.uint8, sides=(6, 7), count=5):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (count, channels, *sides), dtype=np.uint8)
    x = x if dtype == np.uint8 else (x / 255).astype(np.float32)
    y, split = np.arange(count) % 2, np.zeros(count, np.int8)
    return Images(x, y, split, np.arange(count) + 10, ("a", "b"), "pictures", "0" * 64)


def luma(image):
    return image[0] if len(image) == 1 else 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def around(plane, row, column, dy, dx):
    """The neighbour, or the nearest pixel that there is."""
    return plane[min(max(row + dy, 0), len(plane) - 1), min(max(column + dx, 0), plane.shape[1] - 1)]


def slow(name, image, whole):
    """One pixel at a time, in float64."""
    if name in COLOURS:
        return image[[COLOURS.index(name)]]
    grey = luma(image.astype(float))
    grey = np.floor(grey + 0.5 + 1e-9) if whole else grey
    out = np.zeros_like(grey)
    for row, column in itertools.product(*map(range, grey.shape)):
        near = {(a, b): around(grey, row, column, a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
        if name == "grey":
            out[row, column] = grey[row, column]
        elif name == "blurred":
            out[row, column] = sum(near.values()) / 9
        else:
            gx = sum(b * (2 - abs(a)) * value for (a, b), value in near.items())
            gy = sum(a * (2 - abs(b)) * value for (a, b), value in near.items())
            out[row, column] = (gx**2 + gy**2) ** 0.5 / 20**0.5
    return np.floor(out + 0.5)[None] if whole else out[None]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("channels", "name"), [*((3, n) for n in VIEWS), *((1, n) for n in ("grey", "edges", "blurred"))]
)
def test_views_are_what_they_are_called(name, channels, dtype):
    source = images(channels, dtype)
    seen = view(source, name)
    assert seen.x.dtype == dtype and seen.x.shape == (5, 3 if name == "colour" else 1, 6, 7)
    if name == "colour":
        assert np.array_equal(seen.x, source.x)
    else:
        expected = np.stack([slow(name, image, dtype == np.uint8) for image in source.x])
        assert np.abs(seen.x.astype(float) - expected).max() <= (0 if dtype == np.uint8 else 1e-6)


def test_samples_stay_who_they_are():
    source = images()
    seen = view(source, "edges")
    for field in ("y", "split", "ids"):
        assert getattr(seen, field) is getattr(source, field)
    assert (seen.classes, seen.name, seen.source_hash) == (source.classes, source.name, source.source_hash)
    assert source.x.shape[1] == 3, "the source is as it was"


def test_no_gradient_is_longer_than_the_longest():
    squares = np.array(list(itertools.product((0.0, 1.0), repeat=9)), np.float32).reshape(-1, 1, 3, 3)
    longest = VIEWS["edges"](squares)[:, 0, 1, 1]
    assert longest.max() == pytest.approx(1.0, abs=1e-6) and pytest.approx(20**0.5) == STEEPEST
    assert VIEWS["edges"](np.full((1, 3, 4, 4), 200, np.uint8)).max() == 0


def test_scans_have_their_windows_as_views():
    x = np.random.default_rng(0).random((3, 2, 4, 5, 5), np.float32)
    scans = Scans(
        x, np.zeros(3, np.int64), np.array([0, 0, -1], np.int8), np.arange(3), ("a", "b"), "ct", "0" * 64,
        views=("lung", "bone"), groups=("p", "q", "r"), further={"other": np.array([2])},
    )  # fmt: skip
    seen = view(scans, "bone")
    assert np.array_equal(seen.x, x[:, 1:]) and seen.views == ("bone",)
    assert (seen.groups, list(seen.further)) == (scans.groups, ["other"])
    with pytest.raises(UserError, match="no view 'bones'; closest: bone"):
        view(scans, "bones")
    with pytest.raises(UserError, match="no view 'grey'"):
        view(scans, "grey")


def test_what_is_not_there_is_told():
    with pytest.raises(UserError, match=r"no view 'gray'; closest: grey"):
        view(images(), "gray")
    with pytest.raises(UserError, match="no view 'red': its images have 1 channel"):
        view(images(1), "red")
    with pytest.raises(UserError, match="4 channels"):
        view(images(4), "grey")
