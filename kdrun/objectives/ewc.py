"""Elastic weight consolidation: weights that mattered for earlier tasks are held where they were."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.networks.weights import load_state

SEMANTICS = 1


class Ewc(nn.Module):
    """The penalty of Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3, with one sum of Fisher information over all earlier tasks and
    the weights after the last of them as its centre, as Huszar 2018 (arXiv 1712.03847) has it.

        value = 1/2 * sum_i F_i * (theta_i - theta*_i)^2

    theta*: the weights that the stage begins with. F: the diagonal of the Fisher information (learning.importance). Every position of a
    batch is given this one number, so that its mean is the penalty itself, however a batch is divided.

    student_logits: [..., C], for the positions alone. Returns [...]; 0 with a gradient of 0 at the first step.
    network: of the student, before it is trained; importance: file of F, or None, where a stage is only tried: F is 1 then.
    """

    starts_at_zero = True

    def __init__(self, network: nn.Module, importance: str | None = None):
        super().__init__()
        fisher = {} if importance is None else load_state(importance)
        self._held: list[
            tuple[nn.Parameter, str]
        ] = []  # a list hides parameters from nn.Module: they are the student's
        for number, (name, parameter) in enumerate(network.named_parameters()):
            if parameter.requires_grad:
                known = torch.ones_like(parameter) if importance is None else fisher[name]
                self.register_buffer(f"fisher_{number}", known.detach().clone(), persistent=False)
                self.register_buffer(f"centre_{number}", parameter.detach().clone(), persistent=False)
                self._held.append((parameter, str(number)))

    def forward(self, student_logits: Tensor) -> Tensor:
        total = student_logits.new_zeros((), dtype=torch.float32)
        for parameter, number in self._held:
            fisher, centre = self.get_buffer(f"fisher_{number}"), self.get_buffer(f"centre_{number}")
            total = total + (fisher * (parameter.float() - centre).square()).sum()
        return (total / 2).expand(student_logits.shape[:-1])
