"""Soft targets at the image slots over a large vocabulary, without ever holding both distributions."""

import torch

from kdrun.objectives.vocabulary_kd import vocabulary_kd


def vocabulary_kd_visual(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    teacher_hidden: torch.Tensor,
    teacher_head: torch.Tensor,
    student_bias: torch.Tensor | None = None,
    teacher_bias: torch.Tensor | None = None,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    memory_mb: float = 128.0,
) -> torch.Tensor:
    """The values and gradients of `kd_visual` (arXiv 2410.16236) on hidden @ head.T, computed chunk by chunk.

    Tensors and options as `vocabulary_kd`, on the positions of `visual_mask`. An image has hundreds of slots and an
    answer a dozen tokens, so this is where most logits of a batch would lie.
    Returns [...], in nats. Raises ValueError for shapes or settings that do not fit.
    """
    return vocabulary_kd(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        student_bias,
        teacher_bias,
        temperature=temperature,
        chunk=chunk,
        memory_mb=memory_mb,
    )


vocabulary_kd_visual.pointwise = True  # see terms.Term
vocabulary_kd_visual.over = "visual_mask"
