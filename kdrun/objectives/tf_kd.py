"""Teacher-free distillation: soft targets of a made-up teacher that knows the label and nothing else; a control."""

import torch

from kdrun.objectives.probabilities import check_temperature, is_label, kullback_leibler

SEMANTICS = 1


def tf_kd(
    student_logits: torch.Tensor, targets: torch.Tensor, *, correct: float = 0.99, temperature: float = 20.0
) -> torch.Tensor:
    """Teacher-free distillation by a manually designed regularisation (Yuan et al. 2020, arXiv 1909.11723), section 4.

        d_c = a at the label, (1 - a) / (C - 1) elsewhere
        p = softmax(d / T),  q = softmax(student_logits)
        value = sum_c p_c * (log p_c - log q_c)

    One value in nats per position; 0 where q = p. It needs no teacher: what it gains is gained by smoothing, which makes it a
    control of distillation beside `ce` with label_smoothing. As in the paper's code, probabilities d take the place of logits, the
    student has no temperature, and there is no factor T^2. The code averages over classes and multiplies by 100 for 100
    classes (1000 for 1000): that is this sum.

    student_logits: float [..., C], C >= 2, computed in float32 or wider. targets: int64 [...].
    correct: a between 1 / C and 1. temperature: T > 0. The code's defaults (with weights 0.1 here and 0.9 of `ce`).
    Returns [...]. Raises ValueError where the shapes disagree, a is out of range, or T is not a positive number.
    """
    check_temperature(temperature)
    classes = student_logits.shape[-1]
    if not 1 / classes <= correct <= 1:
        raise ValueError(f"correct must lie between 1 / {classes} (all classes alike) and 1, got {correct}")
    log_q = student_logits.to(torch.promote_types(student_logits.dtype, torch.float32)).log_softmax(-1)
    designed = torch.full_like(log_q, (1 - correct) / (classes - 1)).masked_fill(is_label(log_q, targets), correct)
    return kullback_leibler((designed / temperature).log_softmax(-1), log_q)


tf_kd.pointwise = True  # see objective_term.Term
