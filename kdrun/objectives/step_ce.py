"""Cross-entropy with the labels at every step of a network with several answers (spiking networks, early exits)."""

import torch
from torch.nn import functional

from kdrun.objectives.wide import widened

SEMANTICS = 1


def step_ce(student_steps: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """The task loss of spiking networks (TET, arXiv 2202.11946; of SeAl-KD, arXiv 2605.14252): per step, not of the mean over steps.

        value = (1 / T) * sum_t CE(z_t, y)

    student_steps: float [B, T, C], logits of each step, computed in float32 or wider. targets: int64 [B].
    label_smoothing: in [0, 1]; the target is 1 - e + e / C for the label, e / C for the others.
    Returns [B] in nats.
    """
    steps = widened(student_steps)
    labels = targets[:, None].expand(steps.shape[:2])
    values = functional.cross_entropy(
        steps.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return values.view(steps.shape[:2]).mean(1)
