"""Losses with state, as a user writes them: a learned temperature, a memory of each sample, and a projection of middle layers."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from kdrun.objectives.sample_memory import RowMemory


class LearnedTemperature(nn.Module):
    """Soft targets at a temperature that learns."""

    def __init__(self, start: float = 2.0):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(start).log())

    def forward(self, student_logits, teacher_logits):
        scale = self.log.exp()
        targets = torch.softmax(teacher_logits.detach() / scale, -1)
        return cross_entropy(student_logits / scale, targets, reduction="none")


class Remembering(nn.Module):
    """The student's probabilities are held near their running mean, which is of each sample; the first look gives the teacher's."""

    def __init__(self, sample_ids, classes, momentum: float = 0.5):
        super().__init__()
        self.memory, self.momentum = RowMemory(sample_ids, classes), momentum
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, student_logits, teacher_logits, ids, step, epoch):
        self.calls += 1
        probabilities = torch.softmax(student_logits, -1)
        before = torch.where(
            self.memory.has(ids)[:, None], self.memory.read(ids), torch.softmax(teacher_logits, -1).detach()
        )
        self.memory.write(ids, self.momentum * before + (1 - self.momentum) * probabilities.detach())
        return (probabilities - before).square().sum(-1) * (1 + epoch + 0.01 * step)


class Shared(Remembering):
    """Fails where a sample that any rank had in the first epoch is not remembered in the second."""

    def forward(self, student_logits, teacher_logits, ids, step, epoch):
        assert epoch == 0 or self.memory.has(ids).all()
        return super().forward(student_logits, teacher_logits, ids, step, epoch)


class Together:
    """Compares pooled layers of both networks, all at once, as a plain class."""

    def __init__(self, power: int = 2):
        self.power = power

    def __call__(self, student_captured, teacher_captured):
        pairs = zip(student_captured, teacher_captured, strict=True)
        return sum((s.flatten(1).mean(1) - t.flatten(1).mean(1)).abs() ** self.power for s, t in pairs)


def pooled(layers):
    return sum(layer.flatten(1).mean(1) for layer in layers)


class Pooled:
    """Compares sums of pooled layers, of which each network may have any number."""

    def __call__(self, student_captured, teacher_captured):
        return (pooled(student_captured) - pooled(teacher_captured)).square()
