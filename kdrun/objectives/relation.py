"""Relation of visual tokens: how similar each image slot's output is to each other's, in student and teacher."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

SEMANTICS = 1


def relation(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    visual_mask: torch.Tensor,
    student_hidden: torch.Tensor | None = None,
    teacher_hidden: torch.Tensor | None = None,
    *,
    of: str = "logits",
    center: bool = False,
    normalize: bool = False,
) -> torch.Tensor:
    """Relation distillation of LLaVA-KD (arXiv 2410.16236).

        R = Z Z^T,  Z: outputs at the n image slots of one sample
        value = 1 - cos(R_student, R_teacher) = |R_student / |R_student| - R_teacher / |R_teacher||^2 / 2

    cos is that of the matrices as vectors of n^2 numbers; the second form is exactly 0 at equality. One value in 0..2 per
    sample, 0 for a sample without picture; all pictures of a sample have one matrix. The value does not change when Z of
    either network is scaled, or its columns rotated, or the rows of both are reordered or rotated together. The paper
    leaves open what Z is and whether it is normalised; the defaults are the published code's. The teacher is a constant.

    student_logits, teacher_logits: float [B, L, V], computed in float32 or wider. An excluded token (logit -inf) counts as 0,
        and so does one whose logits are 0 at all image slots, an unused row of a padded output layer. Vocabularies may differ.
    visual_mask: bool [B, L], True at image slots.
    student_hidden, teacher_hidden: float [B, L, D] and [B, L, D2], used with of=hidden only.
    of: "logits" or "hidden", what Z is.
    center: each row of Z less its own mean, so that a constant added to all logits of a position, which changes no
        probability, changes nothing here either; of logits, those that count as 0 are in no mean and stay 0.
    normalize: rows of Z of length 1, so that R holds cosines.
    Returns float32 or wider [B]. Raises ValueError where shapes disagree or `of` is neither, or its tensors are missing.
    """
    if of not in ("logits", "hidden"):
        raise ValueError(f"of must be logits or hidden, got {of!r}")
    student, teacher = (student_logits, teacher_logits) if of == "logits" else (student_hidden, teacher_hidden)
    if student is None or teacher is None:
        raise ValueError("relation of=hidden needs student_hidden and teacher_hidden")
    if student.shape[:-1] != visual_mask.shape or teacher.shape[:-1] != visual_mask.shape:
        raise ValueError(
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)} and visual_mask "
            f"{tuple(visual_mask.shape)} disagree"
        )
    counts = visual_mask.sum(-1)
    values = torch.zeros(len(counts), dtype=torch.promote_types(student.dtype, torch.float32), device=student.device)
    present = counts > 0
    if not bool(present.any()):
        return values
    sizes = counts[present].tolist()
    with torch.autocast(student.device.type, enabled=False):
        matrices = [_relations(x[visual_mask], sizes, center, normalize, of) for x in (student, teacher.detach())]
    difference = matrices[0] - matrices[1].to(matrices[0].dtype)
    return values.masked_scatter(present, difference.square().sum((1, 2)).to(values.dtype) / 2)


relation.over = "images"


def _relations(rows: torch.Tensor, sizes: list[int], center: bool, normalize: bool, of: str) -> torch.Tensor:
    """R / |R| of each sample, [samples, n, n] with zeros beyond a sample's own slots. rows: [sum of sizes, C]."""
    z = rows.to(torch.promote_types(rows.dtype, torch.float32))
    # The largest number of a row shows whether any is infinite, without a pass that writes.
    largest = z.detach().abs().amax(-1)
    excluded = None
    if not bool(largest.isfinite().all()):
        excluded = z == -torch.inf
        z = z.masked_fill(excluded, 0.0)
        largest = z.detach().abs().amax(-1)
    if center:
        z = _centered(z, excluded, of == "logits")
    if normalize:
        z = torch.nn.functional.normalize(z / _positive(largest), dim=-1)
        largest = torch.ones_like(largest)
    # One scale per sample changes no cosine, and keeps squares of squares of large logits finite.
    if len(set(sizes)) == 1:
        z, largest = z.view(len(sizes), sizes[0], -1), largest.view(len(sizes), sizes[0])
    else:
        z, largest = (pad_sequence(part.split(sizes), batch_first=True) for part in (z, largest))
    z = z / _positive(largest.amax(-1, keepdim=True))
    matrix = z @ z.transpose(1, 2)
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True).clamp(min=1e-30)


def _centered(z: torch.Tensor, excluded: torch.Tensor | None, padded: bool) -> torch.Tensor:
    """Rows less their mean over what is not excluded, which stays 0; padded: columns of zeros are excluded too."""
    unused = (z == 0).all(0) if padded else torch.zeros_like(z[0], dtype=torch.bool)
    if excluded is None and not bool(unused.any()):
        return z - z.mean(-1, keepdim=True)
    counted = ~unused if excluded is None else ~(unused | excluded)
    number = counted.expand_as(z).sum(-1, keepdim=True).clamp(min=1)
    return torch.where(counted, z - torch.where(counted, z, 0.0).sum(-1, keepdim=True) / number, 0.0)


def _positive(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
