"""Adaptive divergence: both directions of Kullback-Leibler, weighed by whether student and teacher differ in the head or the tail."""

from functools import partial

import torch

from kdrun.objectives.chunked import divergence_chunked
from kdrun.objectives.divergences import of_logits
from kdrun.objectives.topk import akl_topk

SEMANTICS = 1


def akl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, head: float = 0.5) -> torch.Tensor:
    """Adaptive Kullback-Leibler divergence (Wu et al. 2024, arXiv 2404.02657).

        p = softmax(teacher_logits),  q = softmax(student_logits),  classes in the order of p, the likeliest first
        head: the first class, and those up to which p sums to at most `head`;  gap = sum |p_c - q_c|, of the head and of all
        w = gap of the head / gap of all
        value = w * sum_c p_c * log(p_c / q_c) + (1 - w) * sum_c q_c * log(q_c / p_c)

    One value in nats per position. w is a constant: no gradient goes through it. Where both agree w is 1/2 here and 0 / 0 in the
    paper's code. There is no temperature. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider. A class that one of the two excludes (logit -inf) and
        the other does not makes the divergence infinite where it has a share; what both exclude adds nothing.
    head: strictly between 0 and 1; 0.5 is the paper's.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree or `head` is not between 0 and 1, FloatingPointError where it is infinite.
    """
    return of_logits(student_logits, teacher_logits, "adaptive", 1.0, head)


akl.pointwise = True  # see objective_term.Term
akl.executions = {"chunked": partial(divergence_chunked, kind="adaptive"), "topk": akl_topk}
