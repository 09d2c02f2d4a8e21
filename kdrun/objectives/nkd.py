"""Normalised distillation: the label weighed by the teacher's certainty, and the other classes as a distribution of their own."""

import torch

from kdrun.objectives.probabilities import at_label, cross_entropy, is_label, log_probabilities, others

SEMANTICS = 1


def nkd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Normalised knowledge distillation (Yang et al. 2023, arXiv 2303.13005), the two teacher terms of its equation for NKD.

        p, q = softmax of the teacher's and the student's logits, t the label
        p', q' = softmax of both over the classes other than t, at temperature T
        value = -p_t * log q_t - gamma * T^2 * sum_{c != t} p'_c * log q'_c

    One value in nats per position. Paper and code both have cross-entropies, not divergences: the value at equality of both
    networks is p_t times -log p_t plus gamma * T^2 times the entropy of p', and its minimum (q' = p', q_t = 1) is the latter.
    T is used for the other classes only. The cross-entropy with the label is a term of its own (`ce`, weight 1). The teacher is
    a constant.

    student_logits, teacher_logits: float [..., C], C >= 2, computed in float32 or wider. targets: int64 [...].
    gamma: factor of the second part. temperature: T > 0. The code's defaults.
    Returns [...]. Raises ValueError where the shapes disagree or T is not a positive number.
    """
    log_q, log_p = log_probabilities(student_logits, teacher_logits)
    label = is_label(log_q, targets)
    target_class = -at_label(log_p, targets).exp() * at_label(log_q, targets)
    rest_q, rest_p = log_probabilities(others(student_logits, label), others(teacher_logits, label), temperature)
    return target_class + gamma * temperature**2 * cross_entropy(rest_p, rest_q)


nkd.pointwise = True  # see objective_term.Term
nkd.zero_at_equality = False
