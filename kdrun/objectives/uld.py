"""Soft targets of a teacher with another vocabulary: probabilities in descending order are compared, whatever token each belongs to."""

import torch

from kdrun.objectives.wide import widened

SEMANTICS = 1


def uld(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, teacher_spans: torch.Tensor | None = None
) -> torch.Tensor:
    """Universal Logit Distillation (Boizard et al. 2024, arXiv 2402.12030), equation 4.

        p_(1) >= p_(2) >= ... of softmax(teacher_logits),  q_(1) >= q_(2) >= ... of softmax(student_logits)
        value = sum_i |p_(i) - q_(i)|,  the shorter list continued with zeros

    The Wasserstein distance of the two distributions where every two different tokens are equally far apart, one value in 0..2 per
    position, without a unit. It is 0 for a student that is as sure as its teacher of quite other tokens: give it with `ce`, as the
    paper does (there `ce` 1, `uld` 1.5). There is no temperature. The teacher is a constant.

    student_logits: float [..., V], teacher_logits: float [..., W], each in float32 or wider; V and W may differ. Excluded tokens
        (logit -inf), such as rows of an output layer that no token belongs to, change nothing.
    teacher_spans: integer [...], 0 where the texts before a position are not the same to both tokenizers (the value is 0 there);
        None: they are everywhere.
    Returns [...]. Raises ValueError where the positions disagree.
    """
    if student_logits.shape[:-1] != teacher_logits.shape[:-1]:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)} disagree"
        )
    sides = [
        torch.softmax(widened(x), -1).sort(-1, descending=True).values
        for x in (student_logits, teacher_logits.detach())
    ]
    width = max(side.shape[-1] for side in sides)
    q, p = (torch.nn.functional.pad(side, (0, width - side.shape[-1])) for side in sides)
    value = (p - q).abs().sum(-1)
    return value if teacher_spans is None else torch.where(teacher_spans > 0, value, 0.0)


uld.pointwise = True  # see objective_term.Term
