"""Sums over log-probabilities in which an excluded class (logit -inf, probability 0) adds nothing; used by the terms, no term itself."""

import math

import torch

from kdrun.objectives.wide import wide_pair


def check_temperature(temperature: float) -> None:
    """Raises ValueError for one that is not a positive number."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a positive number, got {temperature}")


def log_probabilities(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log q, log p) [..., C] of student and teacher at a temperature, the teacher's as a constant; float32 or wider.

    Raises ValueError where the shapes disagree or the temperature is not a positive number.
    """
    check_temperature(temperature)
    student, teacher = wide_pair(student_logits, teacher_logits, "logits")
    return torch.log_softmax(student / temperature, -1), torch.log_softmax(teacher / temperature, -1)


def kullback_leibler(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """sum_c p_c * (log p_c - log q_c) [...], in nats; infinite where q alone excludes a class."""
    p = log_p.exp()
    return (p * torch.where(p == 0, 0.0, log_p - log_q)).sum(-1)


def cross_entropy(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """-sum_c p_c * log q_c [...], in nats; infinite where q alone excludes a class."""
    p = log_p.exp()
    return -(p * torch.where(p == 0, 0.0, log_q)).sum(-1)


def is_label(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """bool [..., C], True at the label. targets: int64 [...]. Raises ValueError where the shapes disagree."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"student_logits {tuple(logits.shape)} and targets {tuple(targets.shape)} disagree")
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, targets.unsqueeze(-1), True)


def at_label(log_q: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log q at the label [...]. targets: int64 [...]."""
    return log_q.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def others(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The logits with the label excluded; label: bool [..., C]."""
    return logits.masked_fill(label, -torch.inf)
