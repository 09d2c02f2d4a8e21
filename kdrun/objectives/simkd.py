"""Reused teacher classifier: the student's projected features become the teacher's, whose classifier then reads them."""

import torch

from kdrun.objectives.features import ANY_SIZE, as_map, maps

SEMANTICS = 1


def simkd(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """SimKD of Chen et al. 2022 (arXiv 2203.14001), equation 4.

        value = mean over channels and positions of (P(s) - t)^2,  P: the projector, a part of the student

    The student is a kdrun.networks.reused_classifier.ReusedClassifier: this term gives its last layer the weights of the teacher's before the
    first step, and holds them. The larger grid is averaged over the smaller one; the paper's code does so before the projector (`grid`
    of that network). Nothing else is minimised there: no labels, no soft targets.

    student_features, teacher_features: float [B, C, ...] or [B, C] with as many channels, computed in float32 or wider.
    Returns [B]; equal features give exactly 0. Raises ValueError where the widths differ.
    """
    student, teacher = maps(as_map(student_features), as_map(teacher_features))
    if student.shape != teacher.shape:
        raise ValueError(
            f"student_features {tuple(student_features.shape)} and teacher_features {tuple(teacher_features.shape)} disagree: give "
            f"student.network.width={teacher.shape[1]}"
        )
    return (student - teacher).square().flatten(1).mean(1)


simkd.settings = ANY_SIZE
simkd.pairs = "sum"
simkd.reuses_classifier = True  # see learning.wiring.reuse_classifier
