"""Soft targets by the generalised Jensen-Shannon divergence: bounded, and between both directions of Kullback-Leibler."""

from functools import partial

import torch

from kdrun.objectives.chunked import divergence_chunked
from kdrun.objectives.divergences import of_logits
from kdrun.objectives.topk import divergence_topk

SEMANTICS = 1


def jsd(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649, equation 1).

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T),  m = b * p + (1 - b) * q
        value = T^2 * (b * sum_c p_c * log(p_c / m_c) + (1 - b) * sum_c q_c * log(q_c / m_c))

    One value in nats per position, at most T^2 * (-b log b - (1 - b) log(1 - b)). value / b tends to `kd` as b tends to
    0, value / (1 - b) to `kl_reverse` as b tends to 1. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], any float type, computed in float32 or wider. Classes that either excludes
        (logit -inf) have the probability 0; the value stays finite.
    beta: b strictly between 0 and 1, the share of the teacher in m. temperature: T > 0.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree, b is not between 0 and 1 or T is not a positive number.
    """
    return of_logits(student_logits, teacher_logits, "jsd", temperature, beta)


jsd.pointwise = True  # see objective_term.Term
jsd.executions = {
    "chunked": partial(divergence_chunked, kind="jsd"),
    "topk": partial(divergence_topk, kind="jsd"),
}
