"""Soft targets where any number of labels applies to a sample: a divergence for each label."""

import torch
from torch.nn import functional

from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def bernoulli_kd(
    student_label_logits: torch.Tensor, teacher_label_logits: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Kullback-Leibler divergence of C independent Bernoulli distributions, the mean over labels: what `kd` (arXiv 1503.02531) is for
    one class out of C.

        p = sigmoid(t / T), q = sigmoid(s / T),  value = T^2 mean_c [p_c log(p_c / q_c) + (1 - p_c) log((1 - p_c) / (1 - q_c))]

    T^2 keeps the gradient's size. The teacher is a constant: no gradient reaches it.

    student_label_logits, teacher_label_logits: float [..., C], any float type, computed in float32 or wider. Returns [...], in nats;
    equal logits give 0. Raises ValueError where the shapes disagree.
    """
    student, teacher = wide_pair(student_label_logits, teacher_label_logits, "label_logits")
    student, teacher = student / temperature, teacher / temperature
    chance = teacher.sigmoid()
    applies = functional.logsigmoid(teacher) - functional.logsigmoid(student)
    not_so = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    return temperature**2 * (chance * applies + (1 - chance) * not_so).mean(-1)


bernoulli_kd.pointwise = True  # see objective_term.Term
