"""Attention transfer: where on the map a network is active."""

import torch

from kdrun.objectives.features import ANY_SIZE, maps, scale, unit

SEMANTICS = 1


def at(student_features: torch.Tensor, teacher_features: torch.Tensor, *, power: float = 2.0) -> torch.Tensor:
    """Attention transfer of Zagoruyko and Komodakis 2017 (arXiv 1612.03928), equation 2 with the maps of equation 1.

        q = sum_c |f_c|^p over positions, as one vector divided by its length
        value = mean over positions of (q_student - q_teacher)^2

    The sum over pairs of layers. Paper and code differ: the equation has the length of the difference and a factor 1/2; the paper's
    code has the mean of squares over samples and positions, as here. Its weight is 1000 (beta = 1e3 in section 3), for
    images of 32x32: the mean over positions is sixteen times as large on maps of 8x8, where a weight of 60 does what 1000 does there.
    Channels may differ in number; the larger grid is averaged over the smaller one. Zero features have q = 0.

    student_features, teacher_features: float [B, C, ...], computed in float32 or wider. power: p > 0.
    Returns [B]; equal features give exactly 0, and so do features with a factor between them.
    Raises ValueError for features that are no maps.
    """
    if not power > 0:
        raise ValueError(f"power must be above 0, got {power}")
    student, teacher = (_attention(features, power) for features in maps(student_features, teacher_features))
    return (student - teacher).square().mean(1)


at.settings = ANY_SIZE
at.pairs = "sum"


def _attention(features: torch.Tensor, power: float) -> torch.Tensor:
    """q, [B, positions]; a factor of the features changes nothing, and keeps their powers finite."""
    features = features / scale(features, tuple(range(1, features.dim())))
    return unit(features.abs().pow(power).mean(1).flatten(1))
