"""Late fusion: encoders that meet only in the last layer, made from any classifier's config node."""

import pytest
import torch
from torch import nn

from kdrun.domains.images.spec import DataSpec
from kdrun.networks.build import build_network
from kdrun.networks.encoder import encoder
from kdrun.problems import UserError

NETWORKS = {
    "se_resnet": ({"_target_": "kdrun.domains.ct.networks.se_resnet.SEResNet", "widths": [4, 8]}, 8),
    "cnn": ({"_target_": "kdrun.networks.cnn.CNN", "widths": [4, 6]}, 6),
    "resnet": ({"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 2}, 8),
}


def spec(shape, classes=2):
    names = tuple(map(str, range(classes)))
    return DataSpec("s", names, shape, {}, (0.5,) * shape[0], (0.5,) * shape[0])


def fusion(node):
    return {"_target_": "kdrun.domains.ct.networks.late_fusion.LateFusion", "encoder": {**node, "_partial_": True}}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("classes", "logits"), [(2, 1), (4, 4)])
def test_a_students_node_becomes_one_encoder_for_each_view(name, classes, logits):
    node, features = NETWORKS[name]
    network = build_network(fusion(node), spec((3, 8, 8), classes), seed=0).eval()
    assert len(network.encoders) == 3 and network.head.in_features == 3 * features
    x = torch.randn(2, 3, 8, 8)
    parts = [network.encoders[view](x[:, view : view + 1]) for view in range(3)]
    assert [part.shape for part in parts] == [(2, features)] * 3
    torch.testing.assert_close(network(x), torch.cat(parts, 1) @ network.head.weight.T + network.head.bias)
    assert network(x).shape == (2, logits)


def test_no_encoder_sees_another_view_and_none_starts_like_another():
    network = build_network(fusion(NETWORKS["se_resnet"][0]), spec((2, 8, 8)), seed=0).eval()
    x = torch.randn(2, 2, 8, 8, requires_grad=True)
    network.encoders[0](x[:, :1]).sum().backward()
    assert x.grad[:, 0].abs().sum() > 0 and x.grad[:, 1].abs().sum() == 0
    assert not torch.equal(network.encoders[0].stem.weight, network.encoders[1].stem.weight)


def test_views_of_volumes():
    network = build_network(fusion(NETWORKS["se_resnet"][0]), spec((2, 4, 8, 8)), seed=0)
    assert network(torch.randn(2, 2, 4, 8, 8)).shape == (2, 1)


def test_the_features_are_what_goes_into_the_layer_that_makes_logits():
    made, features = encoder({"_target_": "kdrun.domains.ct.networks.se_resnet.SEResNet", "widths": [4]}, 5, 1, 8)
    assert isinstance(made.head, nn.Identity) and features == 4
    seen = {}
    made.stages.register_forward_hook(lambda _, __, out: seen.update(maps=out))
    found = made.eval()(torch.randn(2, 1, 8, 8))
    torch.testing.assert_close(found, seen["maps"].mean((2, 3)))


def test_mistakes_are_told():
    node = NETWORKS["cnn"][0]
    with pytest.raises(UserError, match="_partial_: true"):
        build_network({**fusion(node), "encoder": node}, spec((2, 8, 8)), seed=0)
    with pytest.raises(UserError, match="no linear layer"):
        build_network(fusion({"_target_": "torch.nn.Identity"}), spec((2, 8, 8)), seed=0)
    with pytest.raises(UserError, match="no features"):
        build_network(fusion({"_target_": "torch.nn.Linear", "in_features": 8, "out_features": 2}), spec((2, 8)), 0)
