"""Multi-level logit distillation: soft targets, which samples of a batch are alike, and which classes go together, at several temperatures."""

from collections.abc import Sequence

import torch

from kdrun.objectives.divergences import of_logits
from kdrun.objectives.features import products
from kdrun.objectives.ranks import whole_batch
from kdrun.objectives.wide import wide_pair

SEMANTICS = 1
LEVELS = ("instances", "batch", "classes")


def mlkd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    levels: Sequence[str] = LEVELS,
) -> torch.Tensor:
    """Multi-level logit distillation (Jin, Wang and Lin, CVPR 2023): its losses of instances, batch and classes.

        q, p: softmax of logits / T, [n, C] of the n samples of a batch;  for each T of `temperatures`
        instances:  T^2 * sum_c p_ic * log(p_ic / q_ic)
        batch:      sum_j (p_i . p_j - q_i . q_j)^2, whose mean over i is |p p' - q q'|^2 / n
        classes:    |p' p - q' q|^2 / C, the same for all samples
        value of sample i = sum over T of the three, or of those of `levels`

    The first is in nats. The factor T^2 is that of the code. The paper counts the samples and classes that the teacher is less certain
    of; the published code multiplies each mean by their share, which is a half whichever they are, and so selects none. It adds labels
    and instances of a second view with strong augmentation (at T = 3, 4 and 5, and instances of the first view again at 2 and 6).
    `objective=mlkd` has one view, without selection and factor. `objective=mlkd_strong`, with data.augment.strong, is the sum of
    the code: halves, and both views. The terms of batch and classes grow with the batch and with fewer classes: the weights are those
    of batches of 64 and 100 classes. With ten classes a student may learn nothing unless they are far smaller, or `trainer.balance`
    sets them.
    Over the whole batch: samples (or valid positions) of all ranks are compared, and `trainer.accumulate` is refused.
    A matrix of C * C is made: not for vocabularies. The teacher is a constant.

    student_logits, teacher_logits: float [..., C], computed in float32 or wider.
    temperatures: numbers above 0; the code's, as the weights 0.9 here and 0.1 of `ce`. levels: some of instances, batch and classes.
    Returns [...]; equal logits give exactly 0. Raises ValueError where the shapes disagree or a T is not a positive number,
    and for other levels.
    """
    if not temperatures:
        raise ValueError("temperatures must hold at least one number")
    if not levels or not set(levels) <= set(LEVELS):
        raise ValueError(f"levels must be some of {', '.join(LEVELS)}, got {list(levels)}")
    student, teacher = (x.flatten(0, -2) for x in wide_pair(student_logits, teacher_logits, "logits"))
    values = torch.zeros(len(student), dtype=student.dtype, device=student.device)
    for temperature in temperatures:
        if "instances" in levels:
            values = values + of_logits(student, teacher, "forward", temperature)
        (q, own), (p, _) = (whole_batch((logits / temperature).softmax(-1)) for logits in (student, teacher))
        if "batch" in levels:
            values = values + (products(p[own], p) - products(q[own], q)).square().sum(1)
        if "classes" in levels:
            values = values + (products(p.T, p.T) - products(q.T, q.T)).square().sum() / p.shape[1]
    return values.view(student_logits.shape[:-1])


mlkd.pointwise = True  # see objective_term.Term
mlkd.whole_batch = True
