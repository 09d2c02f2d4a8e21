"""Networks of MONAI by name. What needs the library is skipped without it; what is said without it is tested."""

import sys

import pytest
import torch

from kdrun.domains.images.spec import DataSpec
from kdrun.networks.build import build_network
from kdrun.networks.capture import classifier
from kdrun.problems import UserError

TARGET = "kdrun.domains.ct.networks.monai_by_name.monai"
VOLUME, SQUARE = (1, 16, 32, 32), (3, 32, 32)


def spec(shape, classes=2):
    names = tuple(map(str, range(classes)))
    return DataSpec("s", names, shape, {}, (0.5,) * shape[0], (0.5,) * shape[0])


def build(shape=VOLUME, classes=2, **options):
    return build_network({"_target_": TARGET, **options}, spec(shape, classes), seed=0)


@pytest.fixture
def library():
    pytest.importorskip("monai")


def test_without_the_library_the_install_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(UserError, match=r"SEResNet50 needs MONAI: pip install monai"):
        build(architecture="SEResNet50")


@pytest.mark.parametrize(
    ("shape", "classes", "options"),
    [
        (VOLUME, 2, {"architecture": "SEResNet50", "layers": [1, 1, 1, 1]}),
        (SQUARE, 5, {"architecture": "SEResNet50", "layers": [1, 1, 1, 1]}),
        ((1, 32, 32, 32), 2, {"architecture": "DenseNet121", "spatial_dims": 3, "block_config": [1, 1, 1, 1]}),
        (
            VOLUME,
            3,
            {"architecture": "ResNet", "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]},
        ),
        (VOLUME, 2, {"architecture": "Classifier", "channels": [2, 4], "strides": [2, 2]}),
    ],
)
def test_classifiers_fit_the_data(library, shape, classes, options):
    one, two = build(shape, classes, **options), build(shape, classes, **options)
    logits = 1 if classes == 2 else classes
    assert one(torch.zeros(2, *shape)).shape == (2, logits) and classifier(one).out_features == logits
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_two_logits_where_they_are_asked_for(library):
    network = build(SQUARE, architecture="DenseNet121", block_config=[1, 1, 1, 1], out_channels=2)
    assert network(torch.zeros(2, *SQUARE)).shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "SEResnet5"}, "closest: SEResNet50"),
        ({"architecture": "UNet", "channels": [2, 4], "strides": [2]}, r"no classifier: .* gives \(2, 1, 16, 32, 32\)"),
        ({"architecture": "VoxelMorph"}, "no classifier: it takes no number of classes"),
        ({"architecture": "SEResNet50", "pretrained": True}, "weights="),
        ({"architecture": "SEResNet50", "layer": [1]}, "no option 'layer'; closest: layers"),
    ],
)
def test_mistakes_are_told(library, options, said):
    with pytest.raises(UserError, match=said):
        build(**options)


def test_late_fusion_of_its_networks(library):
    node = {"_target_": TARGET, "_partial_": True, "architecture": "SEResNet50", "layers": [1, 1, 1, 1]}
    fusion = {"_target_": "kdrun.domains.ct.networks.late_fusion.LateFusion", "encoder": node}
    network = build_network(fusion, spec((2, 16, 32, 32)), seed=0)
    assert network.head.in_features == 2 * 2048
