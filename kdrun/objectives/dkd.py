"""Decoupled distillation: what the teacher says of the label, and what it says of the other classes, weighed apart."""

import torch

from kdrun.objectives.probabilities import at_label, is_label, kullback_leibler, log_probabilities, others

SEMANTICS = 1


def dkd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> torch.Tensor:
    """Decoupled knowledge distillation (Zhao et al. 2022, arXiv 2203.08679), equation 7.

        p = softmax(teacher_logits / T),  q = softmax(student_logits / T),  t the label
        target class:     TCKD = p_t * log(p_t / q_t) + (1 - p_t) * log((1 - p_t) / (1 - q_t))
        other classes:    NCKD = sum_{c != t} p'_c * log(p'_c / q'_c),  p'_c = p_c / (1 - p_t), q' likewise
        value = T^2 * (alpha * TCKD + beta * NCKD)

    With alpha = 1 and beta = 1 - p_t this is `kd` (equation 6). One value in nats per position. All is computed from
    log-probabilities; the paper's code takes logarithms of probabilities that may be 0, and subtracts 1000 from the logit of the
    label where it is left out here. It lets the weight of the term grow over the first 20 of 240 epochs, which
    `objective=dkd` does by its schedule. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], C >= 2, computed in float32 or wider. targets: int64 [...].
    alpha, beta: factors of the two parts; the code's defaults; it has another beta for some pairs of networks. temperature: T > 0.
    Returns [...]; 0 where both networks agree. Raises ValueError where the shapes disagree or T is not a positive number.
    """
    log_q, log_p = log_probabilities(student_logits, teacher_logits, temperature)
    label = is_label(log_q, targets)
    rest_q, rest_p = (others(log, label) for log in (log_q, log_p))
    two_q, two_p = (
        torch.stack([at_label(log, targets), rest.logsumexp(-1)], -1)
        for log, rest in ((log_q, rest_q), (log_p, rest_p))
    )
    target_class = kullback_leibler(two_p, two_q)
    other_classes = kullback_leibler(rest_p.log_softmax(-1), rest_q.log_softmax(-1))
    return temperature**2 * (alpha * target_class + beta * other_classes)


dkd.pointwise = True  # see objective_term.Term
