"""Transformed teacher matching: the teacher's probabilities to a power as soft targets of the student as it is."""

import torch

from kdrun.objectives.probabilities import check_temperature, kullback_leibler
from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def ttm(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, exponent: float = 0.1) -> torch.Tensor:
    """Transformed teacher matching (Zheng and Yang 2024, arXiv 2402.11148), section 3.

        p_c = P_c^g / sum_k P_k^g,  P = softmax(teacher_logits);  q = softmax(student_logits)
        value = sum_c p_c * (log p_c - log q_c)

    One value in nats per position. p is the teacher's distribution at temperature 1 / g; the student has none, and so there is no
    factor T^2. The minimum 0 is where the student's logits are g times the teacher's, up to a constant, not where both are
    equal. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider.
    exponent: g > 0. The code's example (vgg13 to vgg8) has 0.1 with a weight of 45; both differ from pair to pair.
    Returns [...]. Raises ValueError where the shapes disagree or g is not a positive number.
    """
    return transformed(student_logits, teacher_logits, exponent)[0]


ttm.pointwise = True  # see objective_term.Term
ttm.zero_at_equality = False


def transformed(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, exponent: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(divergence from p to q, log sum_k P_k^g), each [...]; see `ttm`."""
    check_temperature(exponent)
    student, teacher = wide_pair(student_logits, teacher_logits, "logits")
    powers = exponent * teacher.log_softmax(-1)
    return kullback_leibler(powers.log_softmax(-1), student.log_softmax(-1)), powers.logsumexp(-1)
