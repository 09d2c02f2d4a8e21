"""Soft targets: the Kullback-Leibler divergence from the teacher to the student at a temperature."""

import torch

from kdrun.objectives.divergences import of_logits


def kd(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 4.0) -> torch.Tensor:
    """Knowledge distillation of Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2; softmax as in equation 1.

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T)
        value = T^2 * sum_c p_c * (log p_c - log q_c)

    Summed over classes, one value in nats per position. The paper minimises the cross-entropy of p and q, which has
    the same gradient; the divergence is reported because it is 0 where both networks agree. Its gradient
    T * (q - p), equation 2 times T^2, is about the same size at every T, so that the balance with other terms stays
    when T changes. The teacher is a constant: no gradient reaches it.

    student_logits, teacher_logits: float [..., C], any float type, computed in float32 or wider. A class that the teacher
        excludes (logit -inf) adds nothing; one that only the student excludes makes the divergence infinite.
    temperature: T > 0.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree or T is not a positive number, FloatingPointError where it is infinite.
    """
    return of_logits(student_logits, teacher_logits, "forward", temperature)


kd.pointwise = True  # see terms.Term
