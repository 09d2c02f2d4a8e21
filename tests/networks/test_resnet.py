import pytest
import torch

from kdrun.networks.resnet import ResNet


def count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("depth", "width", "shortcut", "parameters"),
    [
        (20, 16, "A", 269_722),  # table 6 of the paper: 0.27 M
        (32, 16, "A", 464_154),  # 0.46 M
        (56, 16, "A", 853_018),  # 0.85 M
        (110, 16, "A", 1_727_962),  # 1.7 M
        (20, 16, "B", 272_474),
        (8, 16, "A", 75_290),
        (8, 4, "A", 5_006),
        (8, 2, "A", 1_356),
    ],
)
def test_parameters_on_cifar10(depth, width, shortcut, parameters):
    assert count(ResNet(depth, width, shortcut)) == parameters


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(
    ("size", "channels", "maps"),
    [(32, 3, (8, 8)), (28, 1, (7, 7)), (8, 1, (2, 2)), (4, 1, (2, 2)), (2, 1, (2, 2)), (1, 1, (1, 1)), (9, 3, (3, 3))],
)
def test_the_last_map_keeps_2x2_positions_where_the_image_has_them(shortcut, size, channels, maps):
    network = ResNet(8, 4, shortcut, num_classes=7, in_channels=channels, image_size=size).eval()
    seen = []
    network.stage3.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)
    assert seen == [(2, 16, *maps)]


def test_oblong_images():
    network = ResNet(8, 4, num_classes=3, in_channels=2, image_size=(4, 32)).eval()
    assert network(torch.zeros(2, 2, 4, 32)).shape == (2, 3)


def test_the_padded_shortcut_takes_every_second_position_and_adds_channels_of_zeros():
    network = ResNet(8, 4, "A", image_size=8)
    shortcut = network.stage2[0].shortcut
    maps = torch.randn(2, 4, 8, 8)
    out = shortcut(maps)
    assert torch.equal(out[:, :4], maps[:, :, ::2, ::2])
    assert not out[:, 4:].any() and out.shape == (2, 8, 4, 4)


def test_every_parameter_gets_a_gradient():
    network = ResNet(14, 4, "B", in_channels=1, image_size=8)
    network(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"depth": 18}, "6n"), ({"depth": 2}, "6n"), ({"width": 0}, "width"), ({"shortcut": "C"}, "A")],
)
def test_impossible_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        ResNet(**options)
