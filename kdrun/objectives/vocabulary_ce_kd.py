"""Labels and soft targets over a large vocabulary in one pass, the student's logits computed once for both."""

import torch

from kdrun.objectives.vocabulary import Settings, vocabulary_values


def vocabulary_ce_kd(
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
    """value = ce * `vocabulary_ce` + kd * `vocabulary_kd`, with their tensors and options.

    ce, kd: the factors of the two, inside the term since only their sum is computed; `weight` multiplies both.
    Rows of the output layers that only one network has are left out of the cross-entropy as well.
    Returns [...], in nats. Raises ValueError for shapes or settings that do not fit, IndexError for a target that no
    common row has.
    """
    settings = Settings(ce, kd, kind, temperature, beta, label_smoothing, chunk, memory_mb)
    return vocabulary_values(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        targets,
        student_bias,
        teacher_bias,
        settings=settings,
    )


vocabulary_ce_kd.pointwise = True  # see terms.Term
