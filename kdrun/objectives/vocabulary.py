"""Losses over a large vocabulary from hidden states and output layers, a few positions at a time; used by the terms.

Logits of all positions are never there at once, neither the student's nor the teacher's: a chunk's are computed, used
and overwritten by the next. See docs/vocabulary-losses.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kdrun.objectives.vocabulary_chunks import Pass
from kdrun.objectives.vocabulary_settings import Settings

__all__ = ["Settings", "rows_left_out", "vocabulary_values"]


def rows_left_out(student_head: torch.Tensor, teacher_head: torch.Tensor) -> tuple[int, int]:
    """Rows of the student's and of the teacher's output layer, [V_s, D] and [V_t, D2], that the other does not have.

    Output layers of one tokenizer may be padded to different widths; no token belongs to the rows beyond the common ones.
    """
    common = min(len(student_head), len(teacher_head))
    return len(student_head) - common, len(teacher_head) - common


def vocabulary_values(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    teacher_hidden: torch.Tensor | None = None,
    teacher_head: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    student_bias: torch.Tensor | None = None,
    teacher_bias: torch.Tensor | None = None,
    *,
    settings: Settings,
) -> torch.Tensor:
    """One value per position, as the dense terms give on `hidden @ head.T + bias`, with gradients for the student's three.

    student_hidden: float [..., D]; student_head: [V_s, D]; student_bias: [V_s]. teacher_hidden: float [..., D2];
    teacher_head: [V_t, D2]; teacher_bias: [V_t]; constants. targets: int64 [...], below the number of rows used.
    With a teacher, whatever its factor, everything is over the rows that both have (see `rows_left_out`), the cross-entropy
    as well.
    Products are computed in the type of hidden states and head, under autocast in autocast's; all else in float32 or wider.
    Returns [...]. Raises ValueError where shapes disagree or a factor above 0 lacks its tensors, IndexError for a target
    that no row has.
    """
    shape = student_hidden.shape[:-1]
    rows = len(student_head)
    _fits("student", student_hidden, student_head, student_bias)
    teacher = (None, None, None)
    if teacher_head is not None:
        rows = min(rows, len(teacher_head))
    if settings.kd:
        if teacher_hidden is None or teacher_head is None:
            raise ValueError("a divergence needs teacher_hidden and teacher_head")
        _fits("teacher", teacher_hidden, teacher_head, teacher_bias)
        if teacher_hidden.shape[:-1] != shape:
            raise ValueError(
                f"student_hidden {tuple(student_hidden.shape)} and teacher_hidden {tuple(teacher_hidden.shape)} disagree"
            )
        teacher = (teacher_hidden.detach().flatten(0, -2), teacher_head.detach(), teacher_bias)
    labels = None
    if settings.ce:
        if targets is None or targets.shape != shape:
            found = None if targets is None else tuple(targets.shape)
            raise ValueError(f"student_hidden {tuple(student_hidden.shape)} and targets {found} disagree")
        labels = targets.flatten()
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < rows):
            raise IndexError(f"a target lies outside of the {rows} rows used: {int(labels.min())}..{int(labels.max())}")
    flat = student_hidden.flatten(0, -2)
    tensors = (flat, student_head, student_bias, *teacher, labels)
    return Chunked.apply(*tensors, rows, settings, torch.is_grad_enabled()).view(shape)


def _fits(who: str, hidden: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None) -> None:
    if hidden.dim() < 2 or head.dim() != 2 or hidden.shape[-1] != head.shape[1]:
        raise ValueError(f"{who}_hidden {tuple(hidden.shape)} and {who}_head {tuple(head.shape)} disagree")
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(f"{who}_head {tuple(head.shape)} and {who}_bias {tuple(bias.shape)} disagree")


class Chunked(torch.autograd.Function):
    """One value per position [N]; nothing of size N * V is kept.

    How the backward pass is right for any gradient of the values [N]: the derivative of one value by its own hidden state
    is computed with the value, [N, D], and multiplied by its gradient later. That by the output layer is a sum over
    positions: it is computed with the values as if all had one gradient, which is how the mean of a term comes back. Where
    they turn out to differ, or with `recompute`, the logits of each chunk are computed once more in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        bias: torch.Tensor | None,
        teacher_hidden: torch.Tensor | None,
        teacher_head: torch.Tensor | None,
        teacher_bias: torch.Tensor | None,
        targets: torch.Tensor | None,
        rows: int,
        settings: Settings,
        differentiable: bool,
    ) -> torch.Tensor:
        device = hidden.device.type
        ctx.rows, ctx.settings = rows, settings
        ctx.narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        tensors = (hidden, head, bias, teacher_hidden, teacher_head, teacher_bias, targets)
        ctx.save_for_backward(*tensors)
        wanted = [differentiable and asked for asked in ctx.needs_input_grad[:3]]
        if settings.recompute and any(wanted[1:]):
            wanted = [False] * 3
        with torch.autocast(device, enabled=False):
            values, ctx.ahead = Pass(ctx, *tensors).run(wanted)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:3])
        by_hidden, by_head, by_bias = ctx.ahead
        found: list[torch.Tensor | None] = [None] * 3
        if by_hidden is not None:
            found[0] = by_hidden * gradient.unsqueeze(1)
            wanted[0] = False
        even = len(gradient) > 0 and bool((gradient == gradient[0]).all())
        if even and (by_head is not None or by_bias is not None):
            # Given away and not copied: it has the size of the output layer. A second backward pass recomputes.
            found[1:] = [None if value is None else value.mul_(gradient[0]) for value in (by_head, by_bias)]
            wanted[1:] = [False] * 2
        ctx.ahead = (by_hidden, None, None)
        del by_head, by_bias
        if any(wanted):
            with torch.autocast(tensors[0].device.type, enabled=False):
                _, again = Pass(ctx, *tensors).run(wanted, gradient)
            found = [one if other is None else other for one, other in zip(found, again, strict=True)]
        found = [
            None if value is None else value.to(like.dtype) for value, like in zip(found, tensors[:3], strict=True)
        ]
        return (*found, *(None,) * 7)
