"""Soft targets at every step of a network with several answers (spiking networks, early exits)."""

import torch

from kdrun.objectives.divergences import of_logits

SEMANTICS = 1


def step_kd(student_steps: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 3.0) -> torch.Tensor:
    """Plain distillation per step, as of temporal decoupling (arXiv 2501.15925): every step learns from the same teacher.

        value = (1 / T) * sum_t tau^2 * KL(softmax(a / tau) || softmax(z_t / tau))

    student_steps: float [B, T, C], logits of each step. teacher_logits: float [B, C], a constant. temperature: tau > 0.
    Returns [B] in nats; steps that are all equal to the teacher give exactly 0. Raises ValueError where the classes disagree.
    """
    teacher = teacher_logits[:, None].expand(-1, student_steps.shape[1], -1)
    return of_logits(student_steps, teacher, "forward", temperature).mean(1)


step_kd.zero_at_equality = False  # steps of one network differ from their mean
