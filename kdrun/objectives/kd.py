"""Soft targets: the Kullback-Leibler divergence from the teacher to the student at a temperature."""

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def kd(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 4.0) -> torch.Tensor:
    """Knowledge distillation of Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), section 2; softmax as in equation 1.

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T)
        value = T^2 * sum_c p_c * (log p_c - log q_c)

    Summed over classes, one value in nats per position. The paper minimises the cross-entropy of p and q, which has
    the same gradient; the divergence is reported because it is 0 where both networks agree. Its gradient
    T * (q - p), equation 2 times T^2, is about the same size at every T, so that the balance with other terms stays
    when T changes. The teacher is a constant: no gradient reaches it.

    student_logits, teacher_logits: float [..., C], any float type, computed in float32 or wider.
    temperature: T > 0.
    Returns [...]; equal logits give exactly 0 and exactly no gradient.
    Raises ValueError where the shapes disagree or T is not a positive number.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a positive number, got {temperature}")
    if student_logits.shape[-1] != teacher_logits.shape[-1]:
        raise ValueError(
            f"the student has {student_logits.shape[-1]} classes and the teacher {teacher_logits.shape[-1]}: "
            "soft targets need the same classes in the same order"
        )
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)} disagree"
        )
    wide = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32)
    return _SoftTargets.apply(student_logits.to(wide), teacher_logits.detach().to(wide), temperature)


kd.pointwise = True  # see terms.Term


class _SoftTargets(torch.autograd.Function):
    """The value, with its gradient written out.

    Differentiating the value step by step costs twice the time and memory, and multiplies q by a sum of p that is 1
    only up to rounding: a student equal to its teacher would then be pushed about by rounding errors.
    """

    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        log_q, log_p = (torch.log_softmax(x if temperature == 1 else x / temperature, -1) for x in (student, teacher))
        p = log_p.exp()
        divergence = (log_p - log_q).mul_(p).sum(-1)
        # A class the teacher excludes (logit -inf) adds nothing, whatever the student says of it; a NaN stays one. That is
        # rare, and a pass over all classes: on a CPU it is looked for only where it shows. A GPU would have to wait.
        if divergence.is_cuda or bool(divergence.isnan().any()):
            divergence = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)
        ctx.save_for_backward(log_q.exp_().sub_(p))
        ctx.temperature = temperature
        return divergence * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        return difference * (gradient * ctx.temperature).unsqueeze(-1), None, None
