"""Tensors in float32 or wider, as losses compute."""

import torch


def wide_pair(student: torch.Tensor, teacher: torch.Tensor, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float32 or wider, the teacher as a constant. Raises ValueError, with `what` they are, where shapes disagree."""
    if student.shape != teacher.shape:
        raise ValueError(f"student_{what} {tuple(student.shape)} and teacher_{what} {tuple(teacher.shape)} disagree")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def widened(values: torch.Tensor) -> torch.Tensor:
    """In float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
