"""Soft targets over a large vocabulary, in either direction or between, without ever holding both distributions."""

import torch

from kdrun.objectives.vocabulary import Settings, vocabulary_values


def vocabulary_kd(
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
    chunk: int | None = None,
    memory_mb: float = 128.0,
) -> torch.Tensor:
    """The values and gradients of `kd`, `kl_reverse` or `jsd` on hidden @ head.T, computed chunk by chunk (vocabulary.py).

    student_hidden, teacher_hidden: float [..., D] and [..., D2], before the output layers. student_head, teacher_head:
        [V_s, D] and [V_t, D2]; student_bias, teacher_bias: [V_s] and [V_t]. Rows that only one has are left out.
    kind: "forward" (arXiv 1503.02531), "reverse" (arXiv 2306.08543) or "jsd" with `beta` (arXiv 2306.13649).
    temperature: T > 0; the value has the factor T^2.
    chunk: positions at a time; null: as many as fit into memory_mb (MiB).
    Returns [...], in nats; equal networks give exactly 0 and exactly no gradient.
    Raises ValueError for shapes or settings that do not fit.
    """
    settings = Settings(kd=1.0, kind=kind, temperature=temperature, beta=beta, chunk=chunk, memory_mb=memory_mb)
    return vocabulary_values(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        settings=settings,
    )


vocabulary_kd.pointwise = True  # see terms.Term
