"""Soft targets the other way round: the divergence from the student to the teacher, which seeks the teacher's modes."""

from functools import partial

import torch

from kdrun.objectives.chunked import divergence_chunked
from kdrun.objectives.divergences import of_logits
from kdrun.objectives.topk import divergence_topk

SEMANTICS = 1


def kl_reverse(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """Reverse Kullback-Leibler divergence (MiniLLM, arXiv 2306.08543, section 2.1; here token by token on given text).

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T)
        value = T^2 * sum_c q_c * (log q_c - log p_c)

    One value in nats per position. A student that cannot follow all of the teacher's distribution keeps to its likely
    part instead of covering all of it. The factor T^2 keeps the size of the gradient, as in `kd`. The teacher is a
    constant.

    student_logits, teacher_logits: float [..., C], any float type, computed in float32 or wider. A class that the teacher
        excludes (logit -inf) and the student does not makes the divergence infinite: `kd` and `jsd` go with such a
        teacher. What both exclude adds nothing.
    temperature: T > 0.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree or T is not a positive number, FloatingPointError where it is infinite.
    """
    return of_logits(student_logits, teacher_logits, "reverse", temperature)


kl_reverse.pointwise = True  # see objective_term.Term
kl_reverse.executions = {
    "chunked": partial(divergence_chunked, kind="reverse"),
    "topk": partial(divergence_topk, kind="reverse"),
}
