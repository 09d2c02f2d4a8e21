"""A network whose `blocks` are sharded one by one."""

from torch import nn


class Blocks(nn.Module):
    def __init__(self, num_classes: int, width: int = 9):
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, num_classes)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(3))

    def forward(self, inputs):
        x = self.first(inputs.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)
