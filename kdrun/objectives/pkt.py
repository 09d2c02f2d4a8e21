"""Probabilistic knowledge transfer: how probable a sample is as a neighbour of another."""

import torch

from kdrun.objectives.features import ANY_SIZE, length, products, wide
from kdrun.objectives.ranks import whole_batch

SEMANTICS = 1

EPSILON = 1e-7
"""Added by the paper's code to lengths and to probabilities."""


def pkt(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """Probabilistic knowledge transfer of Passalis and Tefas 2018 (arXiv 1803.10837), equations 4 to 7 with the cosine kernel.

        K[i, j] = (cos(f_i, f_j) + 1) / 2,  p[j | i] = K[i, j] / sum_k K[i, k]
        value of sample i = mean_j p_teacher[j | i] * log((p_teacher[j | i] + e) / (p_student[j | i] + e)),  e = 1e-7

    The paper sums over j other than i; its code, which is followed, takes the mean over all j, i as well, and adds e. The sum over
    pairs of layers. Over the whole batch: the samples of all ranks are compared, and `trainer.accumulate` is refused.

    student_features, teacher_features: float [B, ...], flattened, computed in float32 or wider; sizes may differ.
    Returns [B]; equal features give exactly 0, and up to e so do features that are scaled or rotated.
    """
    student, teacher = (_neighbours(features) for features in wide(student_features, teacher_features))
    return (teacher * ((teacher + EPSILON) / (student + EPSILON)).log()).mean(1)


pkt.settings = ANY_SIZE
pkt.pairs = "sum"
pkt.whole_batch = True


def _neighbours(features: torch.Tensor) -> torch.Tensor:
    """p[j | i], [rows of this rank, b]."""
    everything, own = whole_batch(features.flatten(1))
    everything = everything / (length(everything) + EPSILON)
    kernel = (products(everything[own], everything) + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)
