"""Skewed soft targets the other way round: the divergence from the student to a mixture of both."""

from functools import partial

import torch

from kdrun.objectives.chunked import divergence_chunked
from kdrun.objectives.divergences import of_logits
from kdrun.objectives.topk import divergence_topk

SEMANTICS = 1


def skewed_reverse(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, skew: float = 0.1, temperature: float = 1.0
) -> torch.Tensor:
    """Skewed reverse Kullback-Leibler divergence of DistiLLM (Ko et al. 2024, arXiv 2402.03898), section 3.1.

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T),  m = (1 - a) * p + a * q
        value = T^2 * sum_c q_c * (log q_c - log m_c)

    One value in nats per position, at most -T^2 * log a. At a = 0 it would be `kl_reverse`. Paper and code have T = 1; the factor T^2
    is that of `kd`. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider. Classes that either excludes (logit -inf) have the
        probability 0; the value stays finite.
    skew: a strictly between 0 and 1, the share of the student in m; 0.1 is the paper's. temperature: T > 0.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree, a is not between 0 and 1 or T is not a positive number.
    """
    return of_logits(student_logits, teacher_logits, "skewed_reverse", temperature, skew)


skewed_reverse.pointwise = True  # see objective_term.Term
skewed_reverse.executions = {
    "chunked": partial(divergence_chunked, kind="skewed_reverse"),
    "topk": partial(divergence_topk, kind="skewed_reverse"),
}
