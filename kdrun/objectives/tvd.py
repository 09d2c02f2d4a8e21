"""Total variation: half of what the probabilities of student and teacher differ by, symmetric and at most 1."""

from functools import partial

import torch

from kdrun.objectives.chunked import divergence_chunked
from kdrun.objectives.divergences import of_logits
from kdrun.objectives.topk import divergence_topk

SEMANTICS = 1


def tvd(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Total variation distance of f-distillation (Wen et al. 2023, arXiv 2307.15190), token by token.

        p = softmax(teacher_logits),  q = softmax(student_logits)
        value = 1/2 * sum_c |p_c - q_c|

    One value per position, in 0..1 and without a unit. Its gradient does not grow with how wrong the student is, unlike that of a
    Kullback-Leibler divergence; it jumps where p_c = q_c, and counts as 0 there. There is no temperature. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider. An excluded class (logit -inf) has the probability 0.
    Returns [...]; equal logits give exactly 0 and exactly no gradient. Raises ValueError where the shapes disagree.
    """
    return of_logits(student_logits, teacher_logits, "total_variation", 1.0)


tvd.pointwise = True  # see objective_term.Term
tvd.executions = {
    "chunked": partial(divergence_chunked, kind="total_variation"),
    "topk": partial(divergence_topk, kind="total_variation"),
}
