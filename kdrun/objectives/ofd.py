"""Overhaul of feature distillation: responses before the ReLU, of which those far below 0 are of no account."""

import math

import torch
from torch import Tensor, nn

from kdrun.objectives.features import ANY_SIZE, NORMS, as_map, convolution, directions, pooled, wide
from kdrun.objectives.ranks import of_all_ranks

SEMANTICS = 1


class Ofd(nn.Module):
    """Feature distillation of Heo et al. 2019 (arXiv 1904.01866), equations 2 to 5: margin ReLU and partial distance.

        m_c = mean of the teacher's negative responses of channel c;  r: a convolution of kernel 1 and batch normalisation
        per response:  (r(s) - max(t, m))^2 where r(s) > max(t, m) or t > 0;  else 0
        value = sum over layers l = 1..n of 2^(l - n) * sum over channels and positions

    The paper's margin is the mean of negative responses over the training samples, which is kept as a running mean of those seen so
    far, on all ranks (with `trainer.accumulate` the first parts of a batch do not count those after them). Its code computes it from
    the parameters of the batch normalisation before, as if responses were normal, which no network with a sum before its ReLU has.
    `before:PATH` captures what goes into the activation that a module ends with; of features that are never negative
    the margin is 0.

    student_captured, teacher_captured: lists of float [B, C, ...], from the first layer to the last; the teacher's are averaged over the
    student's grid. Returns [B]; r is trained along, so equal features do not give 0.
    """

    settings = ANY_SIZE
    batch_norm = True

    def __init__(self, student_shapes: list[tuple[int, ...]], teacher_shapes: list[tuple[int, ...]]):
        super().__init__()
        pairs = list(zip(student_shapes, teacher_shapes, strict=True))
        self.connectors = nn.ModuleList(_connector(directions(theirs), ours[0], theirs[0]) for ours, theirs in pairs)
        for number, (_, theirs) in enumerate(pairs):
            self.register_buffer(f"sum{number}", torch.zeros(theirs[0]))
            self.register_buffer(f"count{number}", torch.zeros(theirs[0]))

    def forward(self, student_captured: list[Tensor], teacher_captured: list[Tensor]) -> Tensor:
        values, layers = [], len(self.connectors)
        for number, connector in enumerate(self.connectors):
            student, teacher = wide(as_map(student_captured[number]), as_map(teacher_captured[number]))
            margin = self.margin(number, teacher).view(-1, *(1,) * (teacher.dim() - 2))
            apart = partial_distance(connector(student), pooled(teacher, student.shape[2:]), margin)
            values.append(apart.flatten(1).sum(1) * 2.0 ** (number + 1 - layers))
        return sum(values)

    @torch.no_grad()
    def margin(self, number: int, teacher: Tensor) -> Tensor:
        """[C]: mean of all negative responses so far, with these; 0 for a channel without any."""
        responses = teacher.transpose(0, 1).flatten(1)
        negative = responses < 0
        seen = torch.stack([(responses * negative).sum(1), negative.sum(1).to(responses.dtype)])
        total, count = getattr(self, f"sum{number}"), getattr(self, f"count{number}")
        both = of_all_ranks(seen[None]).sum(0)
        total += both[0]
        count += both[1]
        return total / count.clamp(min=1)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Squared distances to the teacher's responses, at least `margin`, where the student is above them or they are above 0."""
    target = torch.maximum(teacher, margin)
    return (student - target).square() * ((student > target) | (teacher > 0))


def _connector(dimensions: int, ours: int, theirs: int) -> nn.Sequential:
    layer = convolution(dimensions, ours, theirs)
    nn.init.normal_(layer.weight, std=math.sqrt(2.0 / theirs))
    return nn.Sequential(layer, NORMS[dimensions](theirs))
