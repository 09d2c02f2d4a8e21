"""Weighted soft labels: soft targets count less where the student already does better on the label than its teacher."""

import torch

from kdrun.objectives.probabilities import at_label, cross_entropy, is_label, log_probabilities

SEMANTICS = 1
TINY = 1e-7
"""Added by the paper's code to the teacher's loss, by which it divides."""


def wsld(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, targets: torch.Tensor, *, temperature: float = 2.0
) -> torch.Tensor:
    """Weighted soft label distillation (Zhou et al. 2021, arXiv 2102.00650).

        p, q = softmax of the teacher's and the student's logits at temperature T, t the label
        w = 1 - exp(-L_s / (L_t + 1e-7)),  L = -log of the probability of t at temperature 1, of student and teacher
        value = w * T^2 * (-sum_c p_c * log q_c)

    One value in nats per position. w is a constant: no gradient goes through it. Paper and code both have the cross-entropy, not
    the divergence: its gradient is w times that of `kd`, its value at equality of both networks w * T^2 times the entropy of p.
    The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider. targets: int64 [...].
    temperature: T > 0; the default is that of the code, for ImageNet (with a weight of 2.5 beside `ce` of weight 1).
    Returns [...]. Raises ValueError where the shapes disagree or T is not a positive number.
    """
    log_q, log_p = log_probabilities(student_logits, teacher_logits, temperature)
    is_label(log_q, targets)
    of_student, of_teacher = (
        -at_label(log, targets) for log in log_probabilities(student_logits.detach(), teacher_logits)
    )
    weight = 1 - torch.exp(-of_student / (of_teacher + TINY))
    return weight * temperature**2 * cross_entropy(log_p, log_q)


wsld.pointwise = True  # see objective_term.Term
wsld.zero_at_equality = False
