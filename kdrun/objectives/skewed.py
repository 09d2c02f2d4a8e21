"""Skewed soft targets: the divergence from the teacher to a mixture of both, which stays bounded where the student is wrong."""

from functools import partial

import torch

from kdrun.objectives.chunked import divergence_chunked
from kdrun.objectives.divergences import of_logits
from kdrun.objectives.topk import divergence_topk

SEMANTICS = 1


def skewed(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, skew: float = 0.1, temperature: float = 1.0
) -> torch.Tensor:
    """Skewed Kullback-Leibler divergence of DistiLLM (Ko et al. 2024, arXiv 2402.03898), section 3.1.

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T),  m = a * p + (1 - a) * q
        value = T^2 * sum_c p_c * (log p_c - log m_c)

    One value in nats per position, at most -T^2 * log a. At a = 0 it would be `kd`. The paper's code reports the cross-entropy with m,
    which has the same gradient and is not 0 where both agree; the paper's divergence is taken. Paper and code have T = 1; the factor
    T^2 is that of `kd`. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider. Classes that either excludes (logit -inf) have the
        probability 0; the value stays finite.
    skew: a strictly between 0 and 1, the share of the teacher in m; 0.1 is the paper's. temperature: T > 0.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree, a is not between 0 and 1 or T is not a positive number.
    """
    return of_logits(student_logits, teacher_logits, "skewed", temperature, skew)


skewed.pointwise = True  # see objective_term.Term
skewed.executions = {
    "chunked": partial(divergence_chunked, kind="skewed"),
    "topk": partial(divergence_topk, kind="skewed"),
}
