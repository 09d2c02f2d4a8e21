"""Networks on rows of a table: what they are told of the data, what is refused, and what a weights file keeps."""

from dataclasses import replace

import pytest
import torch

from kdrun.domains.tabular.spec import TableSpec
from kdrun.kinds import spec_of
from kdrun.networks.build import build_network, data_arguments
from kdrun.networks.weights import load_weights, read_metadata, save_weights
from kdrun.problems import UserError

SPEC = TableSpec("houses", ("a", "b", "c"), "price", {"train": 5}, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), 150.0, 77.0)
MLP = {"_target_": "kdrun.networks.mlp.MLP", "hidden": [4]}


def test_a_multilayer_perceptron_takes_rows_and_gives_one_number():
    network = build_network(MLP, SPEC, seed=0)
    assert network(torch.zeros(2, 3)).shape == (2, 1)
    assert data_arguments(MLP, SPEC) == {
        "num_classes": 1, "num_labels": 1, "in_channels": 3, "in_chans": 3, "image_size": 1, "img_size": 1
    }  # fmt: skip


@pytest.mark.parametrize("target", ["resnet.ResNet", "cnn.CNN"])
def test_a_network_for_images_is_refused(target):
    node = {"_target_": f"kdrun.networks.{target}", **({"depth": 8, "width": 2} if "resnet" in target else {})}
    with pytest.raises(UserError) as caught:
        build_network(node, SPEC, seed=0)
    assert "does not run on rows of 3 features (houses)" in caught.value.lines[0]


def test_more_than_one_output_is_refused():
    with pytest.raises(UserError, match="num_classes=5, but houses has 1 target"):
        build_network({**MLP, "num_classes": 5}, SPEC, seed=0)
    with pytest.raises(UserError, match=r"gives \(2, 2\) for 2 rows, expected \(2, 1\): houses has 1 target"):
        build_network({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}, SPEC, seed=0)


def test_weights_bring_their_spec_and_fit_no_other_table(tmp_path):
    path = save_weights(build_network(MLP, SPEC, seed=0), tmp_path / "best.safetensors", SPEC, MLP)
    spec = spec_of(read_metadata(path))
    assert spec == replace(SPEC, sizes={})
    network = build_network(MLP, spec, seed=1)
    load_weights(network, path, SPEC)
    for changed, told in (
        ({"features": ("a", "b", "d")}, "another table: features"),
        ({"target": "rent"}, "another table: target price, houses has rent"),
        ({"target_std": 78.0}, "another table: target_std 77.0, houses has 78.0"),
        ({"mean": (1.0, 2.0, 4.0)}, r"inputs with mean \[1, 2, 3\]"),
    ):
        with pytest.raises(UserError, match=told):
            load_weights(network, path, replace(SPEC, **changed))
    load_weights(network, path, replace(SPEC, mean=(0.0, 0.0, 0.0)), any_normalisation=True)
