"""Margins: how far scores of candidates lie apart, as the teacher of a reranker has them."""

import torch

from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def margin_mse(student_outputs: torch.Tensor, teacher_outputs: torch.Tensor) -> torch.Tensor:
    """Margin mean squared error (Hofstätter et al. 2020, arXiv 2010.02666).

        value = mean over j = 1..n of ((s_0 - s_j) - (t_0 - t_j))^2

    s and t are scores that student and teacher give to 1 + n passages for a query, the relevant one first; the paper has n = 1. One
    value per query, in squared scores. Scores of the two may have any scale and any offset of their own. The teacher is a constant.

    student_outputs, teacher_outputs: float [..., 1 + n], n >= 1, computed in float32 or wider.
    Returns [...]; outputs that are equal up to a constant give 0. Raises ValueError where the shapes disagree or n is 0.
    """
    student, teacher = wide_pair(student_outputs, teacher_outputs, "outputs")
    if student.shape[-1] < 2:
        raise ValueError(f"margin_mse needs scores of two passages and more, student_outputs is {tuple(student.shape)}")
    apart = student - teacher
    return (apart[..., :1] - apart[..., 1:]).square().mean(-1)


margin_mse.pointwise = True  # see objective_term.Term
