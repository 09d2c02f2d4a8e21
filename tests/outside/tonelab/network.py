"""A small network of one-dimensional convolutions."""

from torch import nn


class Ear(nn.Module):
    """float32 [B, in_channels, T] to logits [B, num_classes]; rate: samples of a second, of which the first layer looks at a 125th;
    width: filters of each of two layers."""

    def __init__(self, rate: int, num_classes: int, in_channels: int = 1, width: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(in_channels, width, kernel_size=rate // 125, stride=8),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, kernel_size=16, stride=4),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, waves):
        return self.classifier(self.features(waves).mean(dim=2))
