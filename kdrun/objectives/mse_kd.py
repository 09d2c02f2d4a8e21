"""Squared error to the teacher's output: soft targets of a regression."""

import torch

from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def mse_kd(student_outputs: torch.Tensor, teacher_outputs: torch.Tensor) -> torch.Tensor:
    """Squared distance of what student and teacher say of a sample, as in mimic learning (Ba and Caruana, arXiv 1312.6184).

        value = mean_k (s_k - t_k)^2

    The paper regresses on the logits of a classifier; here the output is the prediction itself. There is no temperature: an
    output is no distribution. The teacher is a constant: no gradient reaches it.

    student_outputs, teacher_outputs: float [..., K] (K = 1 for one target), any float type, computed in float32 or wider.
    Returns [...]; equal outputs give exactly 0 and exactly no gradient. Raises ValueError where the shapes disagree.
    """
    student, teacher = wide_pair(student_outputs, teacher_outputs, "outputs")
    return (student - teacher).square().mean(-1)


mse_kd.pointwise = True  # see objective_term.Term
