"""The small SE-ResNet and slices of volumes: shapes, what the parts compute, and what maps over the input say."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdrun.domains.ct.networks.se_resnet import SEBlock, SEResNet, norm_layer
from kdrun.domains.ct.networks.slicewise import Slicewise
from kdrun.domains.images.spec import DataSpec
from kdrun.networks.build import build_network
from kdrun.networks.capture import classifier
from kdrun.networks.saliency import class_probability, explain, grad_cam, occlusion
from kdrun.problems import UserError

NODE = {"_target_": "kdrun.domains.ct.networks.se_resnet.SEResNet", "widths": [4, 8]}


def spec(shape, classes=2):
    names = tuple(map(str, range(classes)))
    return DataSpec("s", names, shape, {}, (0.5,) * shape[0], (0.5,) * shape[0])


@pytest.mark.parametrize(
    ("shape", "extra"),
    [((1, 32, 32), {}), ((3, 9, 14), {}), ((1, 16, 32, 32), {}), ((2, 8, 8, 8), {"dimensions": 3}), ((1, 4, 4), {})],
)
@pytest.mark.parametrize(("classes", "logits"), [(2, 1), (3, 3)])
def test_images_and_volumes_give_one_logit_for_two_classes_and_else_one_each(shape, extra, classes, logits):
    network = build_network({**NODE, **extra}, spec(shape, classes), seed=0)
    assert network(torch.randn(2, *shape)).shape == (2, logits)
    assert classifier(network) is network.head and network.head.in_features == 8


def test_axes_are_halved_while_four_positions_remain():
    network = SEResNet(widths=(2, 2, 2), image_size=(16, 32, 33), in_channels=1)
    seen = []
    for layer in (network.norm, *network.stages):
        layer.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[2:])))
    network(torch.zeros(2, 1, 16, 32, 33))
    assert seen == [(8, 16, 17), (4, 8, 9), (4, 4, 5), (4, 4, 5)]


def test_a_block_is_the_papers_formula():
    torch.manual_seed(0)
    block = SEBlock(4, 4, (1, 1), 2, "batch").eval()
    x = torch.randn(2, 4, 5, 5)
    inner = block.norm2(block.conv2(functional.relu(block.norm1(block.conv1(x)))))
    expected = torch.empty_like(x)
    for sample in range(2):
        z = torch.stack([inner[sample, channel].mean() for channel in range(4)])
        s = torch.sigmoid(block.excite.weight @ functional.relu(block.squeeze(z)) + block.excite.bias)
        for channel in range(4):
            expected[sample, channel] = (s[channel] * inner[sample, channel] + x[sample, channel]).clamp(min=0)
    torch.testing.assert_close(block(x), expected)


def test_group_norm_does_not_depend_on_the_other_samples():
    network = SEResNet(widths=(4, 6), norm="group", num_classes=3, in_channels=1, image_size=8)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))
    assert norm_layer("group", 6, 2).num_groups == 2 and norm_layer("group", 16, 3).num_groups == 8


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"norm": "layer"}, "norm"), ({"widths": []}, "widths"), ({"dimensions": 4}, "dimensions must be 2 or 3")],
)
def test_mistakes_are_told(wrong, said):
    with pytest.raises(UserError, match=said):
        build_network({**NODE, **wrong}, spec((1, 8, 8)), seed=0)


def test_a_volume_trains():
    network = build_network(NODE, spec((1, 8, 16, 16)), seed=0)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    y = torch.arange(16) % 2
    x = torch.randn(16, 1, 8, 16, 16) + y.view(-1, 1, 1, 1, 1)
    losses = []
    for _ in range(12):
        loss = functional.binary_cross_entropy_with_logits(network(x)[:, 0], y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


# slices


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_slices_are_seen_with_their_neighbours_and_pooled(pool):
    shape = (2, 5, 8, 8)
    network = build_network(
        {
            "_target_": "kdrun.domains.ct.networks.slicewise.Slicewise",
            "pool": pool,
            "encoder": {**NODE, "_partial_": True},
        },
        spec(shape),
        seed=0,
    ).eval()
    x = torch.randn(3, *shape)
    rows = []
    for volume in x:
        features = []
        for place in range(5):
            near = [volume[:, min(max(place + offset, 0), 4)] for offset in (-1, 0, 1)]
            features.append(network.encoder(torch.cat(near)[None])[0])
        features = torch.stack(features)
        rows.append(network.head(features.mean(0) if pool == "mean" else features.max(0).values))
    torch.testing.assert_close(network(x), torch.stack(rows))
    assert network(x).shape == (3, 1)
    assert network(x[:, :, 2]).shape == (3, 1), "an image is a volume of one slice"


# maps


class Known(nn.Module):
    """Two maps (x and -x through 1x1 weights), mean, linear: Grad-CAM has a closed form."""

    def __init__(self, dimensions: int, logits: int) -> None:
        super().__init__()
        self.conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions](1, 2, 1, bias=False)
        self.head = nn.Linear(2, logits, bias=False)
        with torch.no_grad():
            self.conv.weight.view(-1).copy_(torch.tensor([1.0, -2.0]))
            self.head.weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, 2.0]])[:logits])

    def forward(self, x):
        return self.head(self.conv(x).flatten(2).mean(2))


@pytest.mark.parametrize("sides", [(4, 5), (2, 3, 4)])
@pytest.mark.parametrize("logits", [1, 2])
def test_grad_cam_of_a_network_with_a_known_answer(sides, logits):
    network = Known(len(sides), logits)
    network.requires_grad_(False)
    x = torch.randn(4, 1, *sides)
    classes = torch.tensor([0, 1, 1, 0])
    count = x[0].numel()
    # d score / d map k is weight k / positions; maps are x and -2x.
    rows = {2: {0: (3.0, 1.0), 1: (-1.0, 2.0)}, 1: {0: (-3.0, -1.0), 1: (3.0, 1.0)}}[logits]
    expected = torch.stack(
        [
            torch.clamp((rows[int(c)][0] * image - 2 * rows[int(c)][1] * image) / count, min=0)
            for c, image in zip(classes, x[:, 0], strict=True)
        ]
    )
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(network, x, classes), expected)


def test_maps_leave_the_network_as_it_was():
    network = SEResNet(widths=(4, 8), num_classes=2, in_channels=1, image_size=16).train()
    network.stages[0].norm1.eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.randn(3, 1, 16, 16)
    for method in ("grad_cam", "occlusion"):
        assert explain(network, x, torch.tensor([0, 1, 1]), method).shape == (3, 16, 16)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_grad_cam_finds_the_part_that_a_network_answers_to():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.Flatten(1))
    nn.init.ones_(network[0].weight)
    network.append(nn.Linear(64, 2, bias=False))
    nn.init.ones_(network[3].weight)
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 1:3, 4:6] = 1
    found = grad_cam(network, x, torch.tensor([1]))[0]
    assert found.sum() > 0 and found[0:4, 3:7].sum() == found.sum()


def test_slices_of_a_volume_each_have_a_map():
    network = Slicewise(NODE, context=0, num_classes=2, in_channels=1, image_size=(5, 16, 16)).eval()
    x = torch.randn(2, 1, 5, 16, 16)
    maps = grad_cam(network, x, torch.tensor([1, 1]))
    assert maps.shape == (2, 5, 16, 16)
    swapped = grad_cam(network, x.flip(2), torch.tensor([1, 1]))
    torch.testing.assert_close(swapped, maps.flip(1))


@pytest.mark.parametrize("shape", [(1, 7, 6), (2, 4, 5, 6)])
def test_occlusion_is_what_covering_one_part_costs(shape):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(1), nn.Linear(torch.Size(shape).numel(), 3))
    x, classes = torch.randn(2, *shape), torch.tensor([2, 0])
    found = occlusion(network, x, classes, cell=3, fill=0.5)
    whole = network(x).double().softmax(1)
    for point in [(0,) * (len(shape) - 1), tuple(side - 1 for side in shape[1:])]:
        covered = x.clone()
        covered[(..., *(slice(place // 3 * 3, place // 3 * 3 + 3) for place in point))] = 0.5
        after = network(covered).double().softmax(1)
        for row, asked in enumerate(classes):
            assert found[(row, *point)].item() == pytest.approx((whole - after)[row, asked].item(), abs=1e-6)


def test_one_logit_is_read_as_a_pair():
    network = nn.Sequential(nn.Flatten(1), nn.Linear(4, 1))
    x = torch.randn(2, 1, 2, 2)
    o = network(x)[:, 0].double()
    found = class_probability(network, x, torch.tensor([1, 0]))
    torch.testing.assert_close(found, torch.stack([torch.sigmoid(o[0]), torch.sigmoid(-o[1])]))


def test_what_cannot_be_mapped_is_told():
    network = nn.Sequential(nn.Flatten(1), nn.Linear(4, 2))
    x, classes = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    with pytest.raises(UserError, match="method=occlusion"):
        explain(network, x, classes, "grad_cam")
    with pytest.raises(UserError, match="closest: grad_cam"):
        explain(network, x, classes, "gradcam")
