import torch

from kdrun.networks.mlp import MLP


def test_shapes_and_parameters():
    network = MLP([16, 8], num_classes=10, in_channels=1, image_size=8)
    assert network(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert sum(p.numel() for p in network.parameters()) == 64 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10


def test_no_hidden_layer_is_linear():
    network = MLP([], num_classes=2, in_channels=3, image_size=(2, 4))
    images = torch.randn(5, 3, 2, 4)
    torch.testing.assert_close(network(images) + network(-images), 2 * network(torch.zeros_like(images)))


def test_dropout_acts_in_training_only():
    network = MLP([64], dropout=0.5)
    images = torch.randn(4, 1, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
