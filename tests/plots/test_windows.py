"""The sheet of views and maps: complete, the slice that matters, the same bytes every time."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib

from kdrun.domains.ct.networks.se_resnet import SEResNet
from kdrun.networks.saliency import class_probability, grad_cam
from kdrun.plots.paper import page
from kdrun.plots.windows import Maps, _draw, contact_sheet, sheet_data, slices

VIEWS = ("lung", "bone")


def maps(shape, views=VIEWS, seed=0):
    generator = np.random.default_rng(seed)
    return Maps({v: generator.random(shape) for v in views}, {v: generator.random(shape[0]) for v in views})


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 8, 8)])
def test_a_sheet_is_written_the_same_twice(tmp_path, shape, dtype):
    images = {view: np.ones(shape, dtype) for view in VIEWS}
    settings = dict(matplotlib.rcParams)
    written = []
    for name in ("one.png", "two.png"):
        path = contact_sheet(VIEWS, images, maps(shape), maps(shape, VIEWS[1:], 1), ["t"] * shape[0], tmp_path / name)
        written.append(path.read_bytes())
    assert written[0] == written[1] and written[0].startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == settings, "no setting is left behind"


def test_every_row_and_view_has_three_pictures_and_probabilities():
    shape = (3, 8, 8)
    before, after = maps(shape), maps(shape, ("bone",), 1)
    images = {view: np.zeros(shape) for view in VIEWS}
    with page():
        figure = _draw(VIEWS, images, before, after, ["case 1", "case 2", "case 3"], [None] * 3)
    texts = [text.get_text() for text in figure.texts]
    assert len(figure.axes) == 3 * (3 + 2) + 1, "the teacher's view has no map after; the last is the key of colours"
    assert texts.count("unchanged") == 3 and {"lung", "bone", "case 1", "case 2", "case 3"} <= set(texts)
    expected = [before.probabilities[v][row] for v in VIEWS for row in range(3)] + list(after.probabilities["bone"])
    assert sorted(t for t in texts if t.startswith("p ")) == sorted(f"p {value:.2f}" for value in expected)


def test_the_slice_shown_is_where_maps_are_largest():
    shape = (3, 5, 4, 4)
    images = {view: np.zeros(shape) for view in VIEWS}
    found = {view: np.zeros(shape) for view in VIEWS}
    found["lung"][0, 3, 1, 1] = 5.0
    found["bone"][1, 0] = 1.0
    found["lung"][1, 4, 2, 2] = 100.0  # one voxel of its own map; the other map fills a slice
    found["bone"][2] = -1.0  # nothing speaks for the class: the middle
    kind = Maps(found, {view: np.zeros(3) for view in VIEWS})
    assert slices(VIEWS, images, kind, Maps()) == [3, 0, 2]
    assert slices(VIEWS, {view: image[:, 0] for view, image in images.items()}, Maps(), Maps()) == [None] * 3


def test_maps_and_probabilities_of_networks():
    torch.manual_seed(0)
    nets = [SEResNet(widths=(4,), num_classes=2, in_channels=1, image_size=(4, 8, 8)).eval() for _ in range(3)]
    inputs = {view: torch.randn(3, 1, 4, 8, 8) for view in VIEWS}
    targets = torch.tensor([0, 1, 1])
    before, after = sheet_data(dict(zip(VIEWS, nets[:2], strict=True)), {"bone": nets[2]}, inputs, targets)
    assert set(before.maps) == set(VIEWS) and set(after.maps) == {"bone"}
    expected = grad_cam(nets[2], inputs["bone"], targets).numpy()
    np.testing.assert_allclose(after.maps["bone"], expected, rtol=1e-5)
    asked = class_probability(nets[0], inputs["lung"], targets).detach().numpy()
    np.testing.assert_allclose(before.probabilities["lung"], asked, rtol=1e-9)


def test_an_empty_map_says_so_and_colour_is_no_side(tmp_path):
    images = {"grey": np.zeros((1, 8, 8), np.uint8), "colour": np.zeros((1, 8, 8, 3), np.uint8)}
    empty = Maps({v: np.zeros((1, 8, 8)) for v in images}, {v: np.array([0.25]) for v in images})
    with page():
        figure = _draw(list(images), images, empty, empty, ["t"], [None], {"grey": "test AUC 0.9"}, "heading", "note")
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("p 0.25, nothing here") == 4 and {"test AUC 0.9", "heading", "note"} <= set(texts)
    assert slices(list(images), images, empty, empty) == [None]
    assert contact_sheet(list(images), images, empty, empty, ["t"], tmp_path / "x.png").is_file()


def test_what_does_not_fit_is_refused(tmp_path):
    images = {view: np.zeros((2, 4, 4)) for view in VIEWS}
    for kind, titles in ((maps((2, 4, 5)), "ab"), (maps((2, 4, 4)), "abc")):
        with pytest.raises(ValueError):
            contact_sheet(VIEWS, images, kind, Maps(), list(titles), tmp_path / "x.png")
