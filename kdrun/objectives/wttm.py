"""Weighted transformed teacher matching: as ttm, and samples count more on which the teacher is less certain."""

import torch

from kdrun.objectives.ttm import transformed

SEMANTICS = 1


def wttm(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, exponent: float = 0.2) -> torch.Tensor:
    """Weighted transformed teacher matching (Zheng and Yang 2024, arXiv 2402.11148), section 4.

        value = U * `ttm`,  U = sum_c P_c^g,  P = softmax(teacher_logits)

    U, a power sum, is 1 where the teacher is certain and at most C^(1 - g) where it is not (for g below 1). One value in nats per
    position; 0 where the student's logits are g times the teacher's, up to a constant. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider.
    exponent: g > 0. The code's example has 0.2 with a weight of 4; both differ from pair to pair.
    Returns [...]. Raises ValueError where the shapes disagree or g is not a positive number.
    """
    divergence, log_sum = transformed(student_logits, teacher_logits, exponent)
    return log_sum.exp() * divergence


wttm.pointwise = True  # see objective_term.Term
wttm.zero_at_equality = False
