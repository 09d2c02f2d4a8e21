"""Similarity preserving: which samples of a batch are alike."""

import torch

from kdrun.objectives.features import ANY_SIZE, products, scale, unit, wide
from kdrun.objectives.ranks import whole_batch

SEMANTICS = 1


def sp(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """Similarity-preserving distillation of Tung and Mori 2019 (arXiv 1907.09682), equations 1 to 4.

        G = F F^T,  F: features of the b samples of a batch, flattened; each row of G divided by its length
        value of sample i = mean_j (G_student[i, j] - G_teacher[i, j])^2

    whose mean over the batch is the paper's |G_student - G_teacher|^2 / b^2. The sum over pairs of layers. Over the whole batch: the
    samples of all ranks are compared, and `trainer.accumulate` is refused. Features may differ in size.

    student_features, teacher_features: float [B, ...], computed in float32 or wider.
    Returns [B]; equal features give exactly 0, and so do features that are scaled or rotated.
    """
    student, teacher = (_similarities(features) for features in wide(student_features, teacher_features))
    return (student - teacher).square().mean(1)


sp.settings = ANY_SIZE
sp.pairs = "sum"
sp.whole_batch = True


def _similarities(features: torch.Tensor) -> torch.Tensor:
    """[rows of this rank, b]; a factor of a row changes nothing, and keeps products finite."""
    everything, own = whole_batch(features.flatten(1))
    rows = everything[own]
    return unit(products(rows / scale(rows, 1), everything / scale(everything, (0, 1))))
