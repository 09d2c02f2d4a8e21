import numpy as np
import pytest

from kdrun.domains.ct.resize import fit, nearest, resize_planes, weights


@pytest.mark.parametrize(("size", "target"), [(512, 128), (100, 37), (32, 100), (7, 7), (5, 1)])
def test_weights_average(size, target):
    found = weights(size, target)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(found, found[::-1, ::-1], atol=1e-6)  # neither side is preferred
    if size == target:
        assert np.array_equal(found, np.eye(size, dtype=np.float32))


def test_a_slope_stays_a_slope_within_the_image():
    line = np.arange(90.0)
    out = weights(90, 30) @ line
    assert np.allclose(out[2:-2], (np.arange(30) * 3 + 1)[2:-2], atol=1e-4)


def test_resizing_is_pillows_bilinear():
    from PIL import Image

    plane = np.random.default_rng(0).random((60, 90)).astype(np.float32)
    ours = resize_planes(plane, weights(60, 25), weights(90, 40))
    theirs = np.asarray(Image.fromarray(plane).resize((40, 25), Image.Resampling.BILINEAR))
    assert np.abs(ours - theirs).max() < 1e-5


def test_a_scale_keeps_the_middle_and_takes_the_edge_beyond_it():
    line = np.arange(10.0)
    assert np.allclose(weights(10, 5, 1.0) @ line, [2.5, 3.5, 4.5, 5.5, 6.5], atol=1e-5)  # between two samples
    assert np.allclose((weights(10, 20, 1.0) @ line)[[0, -1]], [0, 9])
    assert nearest(10, 5).tolist() == [1, 3, 5, 7, 9]
    assert nearest(4, 8, 1.0).tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_fit_cuts_the_middle_or_puts_something_around():
    plane = np.arange(16.0).reshape(1, 4, 4)
    assert np.array_equal(fit(plane, 2, 2, 0), plane[:, 1:3, 1:3])
    wide = fit(plane, 6, 2, 9)
    assert np.array_equal(wide[:, 1:5], plane[:, :, 1:3]) and (wide[:, [0, 5]] == 9).all()
