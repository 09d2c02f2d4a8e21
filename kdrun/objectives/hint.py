"""Hints: the student's middle layers learn to give what the teacher's give."""

import torch

from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def hint(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """Mean squared error of what a module of the student gives, after a regressor, to what one of the teacher gives: FitNets
    (Romero et al. 2015, arXiv 1412.6550, equation 3, less its factor 1/2 and a mean instead of a sum).

        value = mean over all but the sample of (r(s) - t)^2

    One value per position, without a unit; of several pairs of modules the mean. `student` and `teacher` name the modules. The
    regressor r is the adaptor of the pair: a convolution of kernel 1, or a linear layer for features without a grid; it trains
    along and is left out of the student. The benchmark's code (RepDistiller, mdistiller) has batch normalisation and ReLU after the
    convolution, `adaptor: conv_bn_relu`, as objective=fitnet: its weight of 100 is for that, and diverges without. The teacher is a constant.

    student_features, teacher_features: float [B, ...], computed in float32 or wider.
    Returns [B]; equal features give exactly 0. Raises ValueError where the shapes disagree.
    """
    student, teacher = wide_pair(student_features, teacher_features, "features")
    return (student - teacher).square().flatten(1).mean(1)


hint.pointwise = True  # see objective_term.Term
