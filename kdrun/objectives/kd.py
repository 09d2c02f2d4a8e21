"""Soft targets: the Kullback-Leibler divergence from the teacher to the student at a temperature."""

from functools import partial

import torch

from kdrun.objectives.chunked import divergence_chunked
from kdrun.objectives.divergences import of_logits
from kdrun.objectives.topk import kd_topk

SEMANTICS = 1


EPSILON = 1e-7
"""Added by the code of arXiv 2403.01427 to the standard deviation, by which it divides."""


def kd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperature: float = 4.0,
    standardize: bool = False,
) -> torch.Tensor:
    """Knowledge distillation of Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2; softmax as in equation 1.

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T)
        value = T^2 * sum_c p_c * (log p_c - log q_c)

    Summed over classes, one value in nats per position. The paper minimises the cross-entropy of p and q, which has
    the same gradient; the divergence is reported because it is 0 where both networks agree. Its gradient
    T * (q - p), equation 2 times T^2, is about the same size at every T, so that the balance with other terms stays
    when T changes. The teacher is a constant: no gradient reaches it.
    With `logits: output:distillation_token` it is the soft distillation of DeiT (arXiv 2012.12877, equation 2: T = 3, weight 0.1); its
    code divides by the number of classes as well, the paper's sum over classes is taken.
    `over: image_slots` is the visual distillation of LLaVA-KD (arXiv 2410.16236): no label exists there, and the teacher's
    distribution carries what it makes of each part of the picture; the paper has T = 1.

    student_logits, teacher_logits: float [..., C], any float type, computed in float32 or wider. A class that the teacher
        excludes (logit -inf) adds nothing; one that only the student excludes makes the divergence infinite.
    temperature: T > 0.
    standardize: logits z of both networks are (z - mean(z)) / (1e-7 + deviation(z)) first, over the classes of a position (Sun et
        al. 2024, arXiv 2403.01427, algorithm 1; there T = 2 and the weight 9): the student then has to agree with the teacher
        up to a shift and a factor of its own. The paper's deviation divides by C, that of its code by C - 1; here it is the
        code's. Without excluded classes.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree or T is not a positive number, FloatingPointError where it is infinite.
    """
    if standardize:
        student_logits, teacher_logits = standardized(student_logits), standardized(teacher_logits.detach())
    return of_logits(student_logits, teacher_logits, "forward", temperature)


kd.pointwise = True  # see objective_term.Term
kd.executions = {"chunked": partial(divergence_chunked, kind="forward"), "topk": kd_topk}


def standardized(logits: torch.Tensor) -> torch.Tensor:
    """Logits [..., C] less their mean over their deviation, in float32 or wider; 0 where all are equal."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits - logits.detach().amax(-1, keepdim=True)
    # Squares of large logits would overflow: a factor changes nothing but the share of EPSILON.
    scale = logits.detach().abs().amax(-1, keepdim=True).clamp(min=1.0)
    centred = logits / scale
    centred = centred - centred.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (logits.shape[-1] - 1)
    # The derivative of a root at 0 is infinite.
    deviation = torch.where(variance > 0, variance.masked_fill(variance == 0, 1.0).sqrt(), 0.0)
    return centred / (EPSILON / scale + deviation)
