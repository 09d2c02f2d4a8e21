"""Softmax regression: the teacher's own classifier reads the student's features."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kdrun.objectives.features import ANY_SIZE, NORMS, as_map, convolution, directions, wide

SEMANTICS = 1


class Srrl(nn.Module):
    """Softmax regression representation learning of Yang et al. 2021 (Knowledge Distillation via Softmax Regression Representation
    Learning, ICLR), equations 2 and 5 with the squared distance.

        s' = mean over positions of ReLU(batch normalisation(convolution of kernel 1 (s)));  W: the teacher's classifier, fixed
        value = mean_c (s'_c - mean over positions of t_c)^2 + mean_k ((W s')_k - teacher_logits_k)^2

    The paper prefers a cross-entropy for the second part on CIFAR; its code, which is followed, has the squared distance, and one weight
    for both. The connector before W is trained along.

    student_captured, teacher_captured: lists of one float [B, C, ...] or [B, C] each, of the last layers. teacher_classifier: float [K, C]
    and [K] or None. Returns [B]; the connector is trained, so equal features do not give 0.
    """

    settings = ANY_SIZE
    batch_norm = True

    def __init__(self, student_shapes: list[tuple[int, ...]], teacher_shapes: list[tuple[int, ...]]):
        super().__init__()
        if len(teacher_shapes) != 1:
            raise ValueError(f"srrl compares one pair of layers, not {len(teacher_shapes)}")
        (ours,), (theirs,) = student_shapes, teacher_shapes
        layer = convolution(directions(ours), ours[0], theirs[0])
        nn.init.normal_(layer.weight, std=math.sqrt(2.0 / theirs[0]))
        self.connector = nn.Sequential(layer, NORMS[directions(ours)](theirs[0]), nn.ReLU())

    def forward(
        self,
        student_captured: list[Tensor],
        teacher_captured: list[Tensor],
        teacher_logits: Tensor,
        teacher_classifier: tuple,
    ) -> Tensor:
        (student, teacher), logits = wide(student_captured[0], teacher_captured[0]), teacher_logits.detach()
        read = self.connector(as_map(student)).flatten(2).mean(2)
        weight, bias = (None if part is None else part.detach().to(read.dtype) for part in teacher_classifier)
        with torch.autocast(read.device.type, enabled=False):
            said = linear(read, weight, bias)
        features = (read - as_map(teacher).flatten(2).mean(2)).square().mean(1)
        return features + (said - logits.to(said.dtype)).square().mean(1)
