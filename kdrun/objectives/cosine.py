"""Cosine of features: their directions alone."""

import torch

from kdrun.objectives.features import unit
from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def cosine(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """1 - cos of the features of both, the cosine loss of DistilBERT (Sanh et al. 2019, arXiv 1910.01108, section 3).

        value = 1 - s . t / (|s| |t|) = |s / |s| - t / |t||^2 / 2

    over the last dimension, per position; of maps [B, C, H, W] give adaptor and `output:features`, or think of each row of a map as one
    vector. The second form is exactly 0 at equality. A vector of zeros has no direction: the value is then 1/2, or 0 where both are.

    student_features, teacher_features: float [..., D], computed in float32 or wider. Returns [...]; a factor changes nothing.
    Raises ValueError where the shapes disagree.
    """
    student, teacher = (unit(features) for features in wide_pair(student_features, teacher_features, "features"))
    return (student - teacher).square().sum(-1) / 2


cosine.pointwise = True  # see objective_term.Term
