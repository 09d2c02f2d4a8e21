"""Curriculum temperature: soft targets at a temperature that learns to make them harder for the student."""

import math
from typing import Any

import torch
from torch import nn

from kdrun.objectives.probabilities import kullback_leibler
from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


class Ctkd(nn.Module):
    """Curriculum temperature distillation (Li et al. 2023, arXiv 2211.16231), section 3.

        T = lowest + span * sigmoid(theta),  p = softmax(teacher_logits / T),  q = softmax(student_logits / T)
        value = T^2 * sum_c p_c * (log p_c - log q_c)
        gradient for theta:  -strength * (1 - cos(pi * min(e, epochs) / epochs)) / 2 times the derivative of the value

    One value in nats per position. e counts epochs from 1. The student descends on the value and the temperature climbs on it, more so
    from epoch to epoch. theta trains with the optimizer of the student, weight decay included, as in the paper's code;
    it begins at `initial`, T at 15.6, which is the code's. The teacher is a constant, T in its softmax is none.
    per_sample: theta = V relu(U [student_logits, teacher_logits] + u) + v of each sample, the paper's instance-wise temperature by two
    layers on both predictions; what the paper leaves open is chosen here: as many hidden units as both have classes, v = initial at first,
    and logits that are constants to it, so that the student does not climb. The published code has one temperature for all alone.

    lowest, span: T lies in lowest..lowest + span. initial: theta at first. epochs: after which the reversed gradient has its full
    strength. Defaults are the code's (with weights 0.9 here and 0.1 of `ce`). classes: of the data, which kdrun gives.
    student_logits, teacher_logits: float [..., C], computed in float32 or wider. epoch: epochs done.
    Returns [...]; 0 where both networks agree. Raises ValueError where the shapes disagree, T could be 0, or the number of classes is
    not known and asked for.
    """

    pointwise = True  # see objective_term.Term

    def __init__(
        self,
        classes: int | None = None,
        lowest: float = 1.0,
        span: float = 20.0,
        initial: float = 1.0,
        epochs: int = 10,
        strength: float = 1.0,
        per_sample: bool = False,
    ):
        super().__init__()
        if not (lowest > 0 and span > 0 and epochs >= 1):
            raise ValueError(
                f"lowest, span and epochs must be positive numbers, got lowest={lowest}, span={span}, epochs={epochs}"
            )
        self.lowest, self.span, self.epochs, self.strength = lowest, span, epochs, strength
        if not per_sample:
            self.theta = nn.Parameter(torch.tensor(float(initial)))
            return
        if classes is None:
            raise ValueError("per_sample=true needs data with a number of classes")
        self.theta = nn.Sequential(nn.Linear(2 * classes, 2 * classes), nn.ReLU(), nn.Linear(2 * classes, 1))
        nn.init.constant_(self.theta[2].bias, float(initial))

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor, epoch: int = 0) -> torch.Tensor:
        student, teacher = wide_pair(student_logits, teacher_logits, "logits")
        done = min(epoch + 1, self.epochs) / self.epochs
        theta = self.theta
        if isinstance(theta, nn.Module):
            theta = theta(torch.cat([student.detach(), teacher], -1))
        theta = Reversed.apply(theta, self.strength * (1 - math.cos(math.pi * done)) / 2)
        temperature = self.lowest + self.span * torch.sigmoid(theta)
        log_q, log_p = (torch.log_softmax(logits / temperature, -1) for logits in (student, teacher))
        return (temperature**2).squeeze(-1) * kullback_leibler(log_p, log_q)


class Reversed(torch.autograd.Function):
    """A tensor as it is, whose gradient is multiplied by -strength."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.strength * gradient, None
