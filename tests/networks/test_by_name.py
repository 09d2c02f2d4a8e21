"""Networks of other libraries. What needs the library is skipped without it; what is said without it is tested."""

import sys
from importlib.util import find_spec

import pytest
import torch

from kdrun.domains.images.spec import DataSpec
from kdrun.networks.build import build_network
from kdrun.problems import UserError

SPEC = DataSpec("shapes", tuple("abcde"), (1, 32, 32), {"train": 6, "val": 2, "test": 2}, (0.5,), (0.25,))
TIMM = "kdrun.networks.by_name.timm"
TRANSFORMERS = "kdrun.networks.by_name.transformers_image_classifier"
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.mark.parametrize(
    ("node", "module", "said"),
    [
        ({"_target_": TIMM, "model_name": "resnet18"}, "timm", r"pip install timm"),
        ({"_target_": TRANSFORMERS, "architecture": "X"}, "transformers", r"pip install transformers"),
    ],
)
def test_without_the_library_the_install_command_is_said(monkeypatch, node, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=said):
        build_network(node, SPEC, seed=0)


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_no_option_of_timm_names_a_file_that_it_would_unpickle(option):
    with pytest.raises(UserError, match="would run what is in a file"):
        build_network({"_target_": TIMM, "model_name": "resnet18", option: "model.pth"}, SPEC, seed=0)


@needs_timm
@pytest.mark.parametrize("model_name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timm_networks_fit_the_data(model_name):
    node = {"_target_": TIMM, "model_name": model_name}
    one, two = build_network(node, SPEC, seed=0), build_network(node, SPEC, seed=0)
    assert one(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@needs_timm
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_name": "resnet18d_"}, "closest: resnet18d"),
        ({"model_name": "resnet18", "pretrained": True}, "weights="),
    ],
)
def test_timm_mistakes(options, said):
    with pytest.raises(UserError, match=said):
        build_network({"_target_": TIMM, **options}, SPEC, seed=0)


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}


@needs_transformers
@pytest.mark.parametrize(
    ("architecture", "config"), [("ResNetForImageClassification", RESNET), ("ViTForImageClassification", VIT)]
)
def test_transformers_networks_fit_the_data(architecture, config):
    node = {"_target_": TRANSFORMERS, "architecture": architecture, "config": config}
    one, two = build_network(node, SPEC, seed=0), build_network(node, SPEC, seed=0)
    assert one(torch.zeros(2, 1, 32, 32)).logits.shape == (2, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@needs_transformers
def test_transformers_from_a_local_folder(tmp_path):
    node = {"_target_": TRANSFORMERS, "architecture": "ResNetForImageClassification"}
    one = build_network({**node, "config": RESNET}, SPEC, seed=0)
    one.save_pretrained(tmp_path)
    two = build_network({**node, "path": str(tmp_path)}, SPEC, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = DataSpec("more", tuple("abcdef"), SPEC.shape, SPEC.sizes, SPEC.mean, SPEC.std)
    with pytest.raises(UserError, match="has 5 classes, the data have 6"):
        build_network({**node, "path": str(tmp_path)}, other, seed=1)


@needs_transformers
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "ResNetForImageClasification"}, "closest: ResNetForImageClassification"),
        ({"architecture": "ResNetForImageClassification", "config": {"depth": [1]}}, "closest: depths"),
        ({"architecture": "ResNetForImageClassification", "path": "nowhere"}, "no config.json in nowhere"),
        ({"architecture": "ResNetForImageClassification", "path": "x", "config": RESNET}, "either config or path"),
    ],
)
def test_transformers_mistakes(options, said):
    with pytest.raises(UserError, match=said):
        build_network({"_target_": TRANSFORMERS, **options}, SPEC, seed=0)
