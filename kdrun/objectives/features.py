"""What losses on features share: grids brought together, lengths and directions of vectors, products of all with all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ANY_SIZE = {"adaptor": "none", "resize": "none"}
"""Settings of a loss that compares features of unlike sizes by itself."""
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


def wide(student: Tensor, teacher: Tensor, constant: bool = True) -> tuple[Tensor, Tensor]:
    """Both in float32 or wider, the teacher as a constant. Raises ValueError where their numbers of samples differ."""
    if len(student) != len(teacher):
        raise ValueError(f"{len(student)} samples of the student and {len(teacher)} of the teacher cannot be compared")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), (teacher.detach() if constant else teacher).to(dtype)


def maps(student: Tensor, teacher: Tensor, constant: bool = True) -> tuple[Tensor, Tensor]:
    """Maps [B, C, ...] of both as `wide` gives them, with what has the larger grid averaged over areas of the smaller one.
    constant: whether the second is one.

    Raises ValueError for what are no maps, or maps of unlike numbers of directions.
    """
    if student.dim() != teacher.dim() or not 3 <= student.dim() <= 5:
        raise ValueError(
            f"student_features {tuple(student.shape)} and teacher_features {tuple(teacher.shape)} must both be maps "
            "[B, C, ...], of layers before the mean over positions"
        )
    student, teacher = wide(student, teacher, constant)
    size = tuple(map(min, student.shape[2:], teacher.shape[2:]))
    return pooled(student, size), pooled(teacher, size)


def pooled(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps [B, C, ...] averaged over the areas of a grid of this size."""
    return features if features.shape[2:] == size else POOLS[len(size)](features, size)


def scale(features: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The largest magnitude along `dim`, 1 where all are 0: divided by it, squares neither overflow nor vanish."""
    largest = features.detach().abs().amax(dim, keepdim=True)
    return torch.where(largest > 0, largest, 1.0)


def length(vectors: Tensor, dim: int = -1) -> Tensor:
    """Euclidean norms along `dim`, which stays, with a gradient of 0 where they are 0."""
    factor = scale(vectors, dim)
    return factor * torch.linalg.vector_norm(vectors / factor, dim=dim, keepdim=True)


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors of length 1; zero vectors stay."""
    scaled = vectors / scale(vectors, dim)
    norms = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / torch.where(norms > 0, norms, 1.0)


def products(rows: Tensor, columns: Tensor) -> Tensor:
    """Inner products [..., n, m] of vectors [..., n, D] with vectors [..., m, D], outside of autocast."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ columns.transpose(-1, -2)


def as_map(features: Tensor) -> Tensor:
    """[B, C, ...]; vectors [B, C] are maps of one position."""
    return features.unsqueeze(-1) if features.dim() == 2 else features


def directions(shape: tuple[int, ...]) -> int:
    """In how many directions features of this shape, without the batch, extend as a map: 1 to 3."""
    return max(len(shape) - 1, 1)


def convolution(dimensions: int, ours: int, theirs: int, size: int = 1, bias: bool = False) -> nn.Module:
    """Between widths, of this kernel size, which keeps the grid."""
    return CONVOLUTIONS[dimensions](ours, theirs, size, padding=size // 2, bias=bias)
