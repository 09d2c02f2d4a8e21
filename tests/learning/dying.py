"""A network whose second rank dies, drifts away or leaves a part of itself out in the middle of training."""

import os

import torch
from torch import nn


class Dying(nn.Sequential):
    def __init__(self, num_classes: int, how: str = "exit"):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, num_classes))
        self.how, self.steps = how, 0
        self.beside = nn.Parameter(self[4].bias.detach().clone()) if how == "beside" else None

    def forward(self, inputs):
        self.steps += self.training
        if os.environ.get("RANK") == "1" and self.steps == 7:
            if self.how == "exit":
                os._exit(9)
            if self.how == "diverge":
                raise FloatingPointError("the ce term became nan at step 6 of training")
            if self.how == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if self.how == "drift":
                self[1].weight.data += 1
        output = super().forward(inputs)
        left_out = os.environ.get("RANK") == "1" and self.steps % 2 == 0
        return output if self.beside is None or left_out else output + self.beside
