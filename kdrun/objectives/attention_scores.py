"""Attention of a transformer's layers, before its softmax."""

import math

import torch
from torch import Tensor

from kdrun.objectives.features import ANY_SIZE, products, wide

SEMANTICS = 1


def attention_scores(
    student_captured: list[Tensor],
    teacher_captured: list[Tensor],
    mask: Tensor | None = None,
    *,
    heads: int = 12,
    parts: int = 1,
) -> Tensor:
    """Attention of TinyBERT (Jiao et al. 2020, arXiv 1909.10351), equation 7: squared distance of scores that are not normalised.

        A = Q K^T / sqrt(d) for each of the `heads` of a layer
        value = sum over layers of mean over heads and both positions of (A_student - A_teacher)^2

    Both networks need as many heads; widths may differ. Capture the projections of queries of all layers, then those of keys (`student:
    [vit.layers.*.attention.q_proj, vit.layers.*.attention.k_proj]`), or what holds queries, keys and values side by
    side with parts=3 (`blocks.*.attn.qkv`). Layers are compared in their order, so give the teacher's as a list of the layers that
    the student's learn from. The paper's code puts 0 for masked scores of both; here they are left out of the mean.

    student_captured, teacher_captured: lists of float [B, L, D] (queries, then keys), or [B, L, parts * D]. mask: bool [B, L], True where a
    position counts; None: all do. Returns [B], or with a mask [B, L]; equal projections give exactly 0.
    Raises ValueError where heads do not divide widths or layers are not as many.
    """
    ours, theirs = (_scores(captured, heads, parts) for captured in (student_captured, teacher_captured))
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} layers of the student and {len(theirs)} of the teacher cannot be compared")
    values = []
    for student, teacher in map(wide, ours, theirs):
        apart = (student - teacher).square().mean(1)
        if mask is None:
            values.append(apart.mean((1, 2)))
        else:
            counted = mask[:, None, :]
            values.append(torch.where(counted, apart, 0.0).sum(-1) / counted.sum(-1).clamp(min=1))
    return sum(values)


attention_scores.settings = ANY_SIZE


def _scores(captured: list[Tensor], heads: int, parts: int) -> list[Tensor]:
    """[B, heads, L, L] of each layer."""
    if parts > 1:
        pairs = [features.chunk(parts, -1)[:2] for features in captured]
    else:
        half, rest = divmod(len(captured), 2)
        if rest:
            raise ValueError(f"{len(captured)} captured layers are no queries with as many keys")
        pairs = list(zip(captured[:half], captured[half:], strict=True))
    found = []
    for queries, keys in pairs:
        if queries.dim() != 3 or queries.shape[-1] % heads:
            raise ValueError(f"heads={heads} must divide the width of features [B, L, D], got {tuple(queries.shape)}")
        width = queries.shape[-1] // heads
        dtype = torch.promote_types(queries.dtype, torch.float32)
        split = [x.to(dtype).unflatten(-1, (heads, width)).transpose(1, 2) for x in (queries, keys)]
        found.append(products(*split) / math.sqrt(width))
    return found
