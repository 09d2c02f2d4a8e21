"""Cross-entropy over a large vocabulary, without ever holding the logits of all positions."""

import torch

from kdrun.objectives.vocabulary import Settings, vocabulary_values


def vocabulary_ce(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    targets: torch.Tensor,
    student_bias: torch.Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    memory_mb: float = 128.0,
) -> torch.Tensor:
    """The values and gradients of `ce` on student_hidden @ student_head.T, computed chunk by chunk (vocabulary.py).

    student_hidden: float [..., D], before the output layer. student_head: [V, D], student_bias: [V], its parameters.
    targets: int64 [...]. label_smoothing: as in `ce`.
    chunk: positions at a time; null: as many as fit into memory_mb (MiB).
    Returns [...], in nats. Raises ValueError for shapes that disagree, IndexError for a target that no row has.
    """
    settings = Settings(ce=1.0, label_smoothing=label_smoothing, chunk=chunk, memory_mb=memory_mb)
    return vocabulary_values(
        student_hidden, student_head, targets=targets, student_bias=student_bias, settings=settings
    )


vocabulary_ce.pointwise = True  # see terms.Term
