"""Binary cross-entropy with the labels: the supervised term where any number of labels applies to a sample."""

import torch
from torch.nn import functional

SEMANTICS = 1


def bce(student_label_logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of C independent decisions, their mean.

        value = mean_c -[y_c log sigmoid(s_c) + (1 - y_c) log(1 - sigmoid(s_c))]

    student_label_logits: float [..., C], any float type, computed in float32 or wider. targets: [..., C] of 0 and 1.
    Returns [...], in nats. Raises ValueError where the shapes disagree.
    """
    if student_label_logits.shape != targets.shape:
        raise ValueError(
            f"student_label_logits {tuple(student_label_logits.shape)} and targets {tuple(targets.shape)} disagree"
        )
    wide = torch.promote_types(student_label_logits.dtype, torch.float32)
    return functional.binary_cross_entropy_with_logits(
        student_label_logits.to(wide), targets.to(wide), reduction="none"
    ).mean(-1)


bce.pointwise = True  # see objective_term.Term
