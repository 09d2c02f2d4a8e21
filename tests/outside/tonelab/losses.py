"""Two losses: one with a learned parameter, one of what lies inside both networks."""

import torch
from torch import nn
from torch.nn import functional


class LearnedTemperature(nn.Module):
    """Soft targets at a temperature that is learned: T^2 KL(teacher / T || student / T) + log T^2 / 2, in nats, per sample."""

    def __init__(self, start: float = 4.0):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(start)).log())

    def forward(self, student_logits, teacher_logits):
        temperature = self.log_temperature.exp()
        taught, learnt = (functional.log_softmax(each / temperature, -1) for each in (teacher_logits, student_logits))
        return temperature**2 * (taught.exp() * (taught - learnt)).sum(-1) + self.log_temperature


def middle(student_features, teacher_features, *, power: float = 2.0):
    """Mean over all but the sample of |r(s) - t|^power, of the outputs of one module of each network."""
    return (student_features - teacher_features).abs().pow(power).flatten(1).mean(1)
