"""Networks that misbehave, each in one way."""

import random

import numpy
import torch
from torch import nn


class FourClasses(nn.Linear):
    def __init__(self):
        super().__init__(64, 4)

    def forward(self, images):
        return super().forward(images.flatten(1))


class OneSizeOnly(nn.Module):
    def forward(self, images):
        return images.reshape(images.shape[0], 3, 224, 224)


class RandomEverywhere(nn.Module):
    """Draws its weights from three sources of random numbers."""

    def __init__(self, num_labels: int, in_chans: int, img_size: int):
        super().__init__()
        self.arguments = (num_labels, in_chans, img_size)
        values = [random.random(), numpy.random.rand(), torch.rand(()).item()]
        self.weight = nn.Parameter(torch.tensor(values))
        self.norm = nn.BatchNorm1d(num_labels)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, images):
        noise = torch.rand(images.shape[0], self.arguments[0])
        return {"logits": self.norm(noise * self.weight.sum())}


def not_a_network():
    return 3
