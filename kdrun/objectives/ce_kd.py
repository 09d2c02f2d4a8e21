"""Labels and soft targets in one term: for vocabularies so large that the student's logits are computed once for both."""

import torch

from kdrun.objectives.ce import ce as cross_entropy
from kdrun.objectives.chunked import ce_kd_chunked
from kdrun.objectives.divergences import of_logits

SEMANTICS = 1


def ce_kd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    ce: float = 0.5,
    kd: float = 0.5,
    kind: str = "forward",
    temperature: float = 1.0,
    beta: float = 0.5,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """value = ce * `ce` + kd * D, with D the divergence `kd` (kind forward), `kl_reverse` (reverse), `tvd` (total_variation), and with
    their number as beta `jsd` (jsd), `skewed` (skewed), `skewed_reverse` (skewed_reverse) or `akl` (adaptive).

    For `execution: chunked`, where two terms would compute the student's logits twice; otherwise the two terms say more.

    student_logits, teacher_logits: float [..., C]. targets: int64 [...].
    ce, kd: factors of the two, inside the term since only their sum is computed; `weight` multiplies both.
    temperature: of D alone. label_smoothing: of the cross-entropy alone.
    Returns [...], in nats. Raises as the terms that it is made of.
    """
    # Where a factor is 0 nothing is computed: a label that is excluded would give 0 times infinity.
    values = 0.0 * targets
    if ce:
        values = values + ce * cross_entropy(student_logits, targets, label_smoothing=label_smoothing)
    return values + kd * of_logits(student_logits, teacher_logits, kind, temperature, beta) if kd else values


ce_kd.pointwise = True  # see objective_term.Term
ce_kd.executions = {"chunked": ce_kd_chunked}
