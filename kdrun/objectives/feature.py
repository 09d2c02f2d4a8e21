"""The teacher's features as targets: what both networks compute before their last layer."""

import torch

from kdrun.objectives.wide import wide_pair

SEMANTICS = 1

NORMS = ("none", "l2")


def feature(student_features: torch.Tensor, teacher_features: torch.Tensor, *, norm: str = "none") -> torch.Tensor:
    """Squared distance of features; cross-window distillation (arXiv 2605.12562) has the mean over D of raw features.

        none:  mean_d (s_d - t_d)^2
        l2:    sum_d (s_d / |s| - t_d / |t|)^2 = 2 - 2 cos(s, t), inferred: the paper does not normalise

    One value per sample, without a unit. Where widths differ, kdrun maps the student's features to the teacher's width by
    a linear layer that trains along and is left out of the student (FitNets, arXiv 1412.6550, section 2.2). The teacher is
    a constant.

    student_features, teacher_features: float [..., D], computed in float32 or wider. norm: none or l2.
    Returns [...]; equal features give exactly 0. Raises ValueError where the shapes disagree or norm is another word.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    student, teacher = wide_pair(student_features, teacher_features, "features")
    if norm == "l2":
        student, teacher = (torch.nn.functional.normalize(each, dim=-1) for each in (student, teacher))
        return (student - teacher).square().sum(-1)
    return (student - teacher).square().mean(-1)


feature.pointwise = True  # see objective_term.Term
