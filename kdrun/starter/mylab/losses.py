"""Losses of mine. kdrun passes tensors by the names of arguments, and options of the config as keywords."""

import torch


def top(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, classes: int = 3, temperature: float = 4.0
) -> torch.Tensor:
    """The divergence from teacher to student over the teacher's likeliest classes, each network's softmax over these alone, times T^2.

    student_logits, teacher_logits: [B, C]. Returns [B], one value for each sample: kdrun takes the mean and applies the weight.
    """
    likeliest = teacher_logits.topk(classes).indices
    teacher = (teacher_logits.gather(1, likeliest) / temperature).log_softmax(1)
    student = (student_logits.gather(1, likeliest) / temperature).log_softmax(1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(1)
