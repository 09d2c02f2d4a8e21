"""Relational distillation: distances and angles between the samples of a batch."""

import torch
from torch.nn.functional import smooth_l1_loss

from kdrun.objectives.features import ANY_SIZE, products, scale, unit, wide
from kdrun.objectives.ranks import whole_batch

SEMANTICS = 1

EPSILON = 1e-12
"""The smallest squared distance, as in the paper's code."""


def rkd(
    student_features: torch.Tensor, teacher_features: torch.Tensor, *, distance: float = 25.0, angle: float = 50.0
) -> torch.Tensor:
    """Relational knowledge distillation of Park et al. 2019 (arXiv 1904.05068), equations 5 to 9.

        psi_D[i, j] = |f_i - f_j| / mean of the distances above 0
        psi_A[i, j, k] = cos of the angle at i between f_j - f_i and f_k - f_i, 0 where one of them is 0
        value of sample i = distance * mean_j h(psi_D) + angle * mean_jk h(psi_A),  h: Huber loss of the difference, delta 1

    The paper sums over pairs and triples of unlike samples; its code, which is followed, takes means over all. The weights are those of
    its experiments on classification, which multiply here and not as a weight of the term since there are two. The sum over pairs of
    layers. Over the whole batch: the samples of all ranks are compared, and `trainer.accumulate` is refused.

    student_features, teacher_features: float [B, ...], flattened, computed in float32 or wider; sizes may differ.
    Returns [B]; equal features give exactly 0, and so do features that are moved, scaled or rotated.
    """
    student, teacher = (x.flatten(1) for x in wide(student_features, teacher_features))
    (student, own), (teacher, _) = whole_batch(student), whole_batch(teacher)
    value = torch.zeros((), dtype=student.dtype, device=student.device)
    if distance:
        ours, theirs = (_distances(features)[own] for features in (student, teacher))
        value = value + distance * smooth_l1_loss(ours, theirs, reduction="none").mean(1)
    if angle:
        ours, theirs = (_angles(features, own) for features in (student, teacher))
        value = value + angle * smooth_l1_loss(ours, theirs, reduction="none").mean((1, 2))
    return value


rkd.settings = ANY_SIZE
rkd.pairs = "sum"
rkd.whole_batch = True


def _distances(features: torch.Tensor) -> torch.Tensor:
    """[b, b], divided by the mean of those above 0. A factor of all changes nothing and keeps squares finite."""
    factor = scale(features, (0, 1))
    features = features / factor
    squares = features.square().sum(1)
    smallest = (EPSILON / factor.double().square()).clamp(1e-24, 1e24).to(features.dtype)
    distances = (squares[:, None] + squares - 2 * products(features, features)).clamp(min=smallest).sqrt()
    distances = distances.masked_fill(torch.eye(len(features), dtype=torch.bool, device=features.device), 0.0)
    mean = distances.sum() / (distances.detach() > 0).sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(features: torch.Tensor, own: slice) -> torch.Tensor:
    """Cosines [rows of this rank, b, b]."""
    directions = unit(features - features[own, None])
    return products(directions, directions)
