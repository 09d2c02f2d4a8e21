"""Cross-entropy and divergences over a large vocabulary, without ever holding the logits of all positions.

How `execution: chunked` computes the losses that compare logits position by position: on hidden states and output layers, whose
products are made a few positions at a time (vocabulary.py). Tensors of all three:

    student_hidden, teacher_hidden  float [..., D] and [..., D2], before the output layers
    student_head, teacher_head      [V_s, D] and [V_t, D2], parameters of the output layers; *_bias: [V_s] and [V_t]
    targets                         int64 [...]

chunk: positions at a time; null: as many as fit into memory_mb (MiB). Rows of the output layers that only one network has are
left out. Each returns [...] in nats, and raises ValueError for shapes or settings that do not fit, IndexError for a target
that no row has.
"""

import torch

from kdrun.objectives.vocabulary import Settings, vocabulary_values


def ce_chunked(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    targets: torch.Tensor,
    student_bias: torch.Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    memory_mb: float = 128.0,
) -> torch.Tensor:
    """The values and gradients of `ce` on student_hidden @ student_head.T."""
    settings = Settings(ce=1.0, label_smoothing=label_smoothing, chunk=chunk, memory_mb=memory_mb)
    return vocabulary_values(
        student_hidden, student_head, targets=targets, student_bias=student_bias, settings=settings
    )


def divergence_chunked(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    teacher_hidden: torch.Tensor,
    teacher_head: torch.Tensor,
    student_bias: torch.Tensor | None = None,
    teacher_bias: torch.Tensor | None = None,
    *,
    kind: str = "forward",
    temperature: float = 1.0,
    beta: float = 0.5,
    skew: float | None = None,
    head: float | None = None,
    chunk: int | None = None,
    memory_mb: float = 128.0,
) -> torch.Tensor:
    """The values and gradients of the loss of a `kind` (divergences.KINDS) on hidden @ head.T; equal networks give exactly 0 and
    exactly no gradient. beta, skew, head: names of the same number, of which a kind has at most one."""
    number = next((value for value in (skew, head) if value is not None), beta)
    settings = Settings(kd=1.0, kind=kind, temperature=temperature, beta=number, chunk=chunk, memory_mb=memory_mb)
    student, teacher = (student_hidden, student_head), (teacher_hidden, teacher_head)
    return vocabulary_values(
        *student, *teacher, student_bias=student_bias, teacher_bias=teacher_bias, settings=settings
    )


def ce_kd_chunked(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    teacher_hidden: torch.Tensor,
    teacher_head: torch.Tensor,
    targets: torch.Tensor,
    student_bias: torch.Tensor | None = None,
    teacher_bias: torch.Tensor | None = None,
    *,
    ce: float = 0.5,
    kd: float = 0.5,
    kind: str = "forward",
    temperature: float = 1.0,
    beta: float = 0.5,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    memory_mb: float = 128.0,
) -> torch.Tensor:
    """The values and gradients of `ce_kd` in one pass, the student's logits computed once for both parts."""
    settings = Settings(ce, kd, kind, temperature, beta, label_smoothing, chunk, memory_mb)
    student, teacher = (student_hidden, student_head), (teacher_hidden, teacher_head)
    return vocabulary_values(*student, *teacher, targets, student_bias, teacher_bias, settings=settings)
