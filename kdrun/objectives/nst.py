"""Neuron selectivity transfer: which positions of a map excite the same channels."""

import torch

from kdrun.objectives.features import ANY_SIZE, maps, products, unit

SEMANTICS = 1


def nst(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """Neuron selectivity transfer of Huang and Wang 2017 (arXiv 1707.01219), equation 6 with the polynomial kernel (d = 2, c = 0).

        f_c: map of channel c as a vector, divided by its length;  k(x, y) = (x . y)^2
        value = mean_cc' k(t_c, t_c') + mean_cc' k(s_c, s_c') - 2 mean_cc' k(s_c, t_c')

    the squared maximum mean discrepancy between the channels of both. The sum over pairs of layers; the paper has the factor 1/2 in the
    weight. Channels may differ in number; the larger grid is averaged over the smaller one.

    student_features, teacher_features: float [B, C, ...], computed in float32 or wider.
    Returns [B]; equal features give exactly 0, and up to rounding so do features whose channels are reordered or scaled.
    Raises ValueError for features that are no maps.
    """
    student, teacher = (unit(features.flatten(2)) for features in maps(student_features, teacher_features))
    return _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)


nst.settings = ANY_SIZE
nst.pairs = "sum"


def _kernel(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return products(first, second).square().mean((1, 2))
