import pytest
import torch

from kdrun.networks.cnn import CNN


@pytest.mark.parametrize("size", [1, 2, 8, 28, 32])
def test_runs_on_small_images(size):
    assert CNN([4, 8, 8], num_classes=3, in_channels=2, image_size=size)(torch.zeros(2, 2, size, size)).shape == (2, 3)


def test_parameters():
    network = CNN([16, 32], num_classes=10, in_channels=1, image_size=28)
    assert sum(p.numel() for p in network.parameters()) == 9 * 16 + 32 + 9 * 16 * 32 + 64 + 32 * 10 + 10
