"""Similarity-aware temporal alignment: the steps of a network teach each other, the more certain and alike the more."""

import math

import torch
from torch.nn import functional

from kdrun.objectives.divergences import of_logits
from kdrun.objectives.wide import widened

SEMANTICS = 1

WEIGHTS = ("reliable", "confidence", "similarity", "uniform", "average")


def sta(student_steps: torch.Tensor, *, temperature: float = 3.0, weights: str = "reliable") -> torch.Tensor:
    """Similarity-aware temporal alignment of SeAl-KD (arXiv 2605.14252), as its code has it: self-distillation over T steps.

        conf_j = (log C - H(softmax z_j)) / log C,   sim_ij = cos(z_i, z_j)
        W_ij = softmax over j != i of conf_j * sim_ij,   zbar_i = sum_j W_ij z_j, a constant
        value = tau^2 * (1 / T) * sum_i KL(softmax(zbar_i / tau) || softmax(z_i / tau))

    student_steps: float [B, T, C], logits of each step. temperature: tau > 0.
    weights: reliable: the above; confidence or similarity: one of both alone; uniform: 1 / (T - 1) each; average: zbar is the mean of all
        steps, the step itself included (temporal decoupling, arXiv 2501.15925).
    Returns [B] in nats; 0 where all steps are equal, and for T = 1, without a gradient. Raises ValueError for other weights.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    steps = widened(student_steps)
    if steps.shape[1] == 1:
        return steps.new_zeros(len(steps))
    with torch.no_grad():
        # Products by hand: matrix products would be in the type of autocast.
        target = (step_weights(steps, weights)[..., None] * steps[:, None]).sum(2)
    return of_logits(steps, target, "forward", temperature).mean(1)


sta.zero_at_equality = False  # steps of one network differ from their mean
sta.starts_at_zero = True  # as long as no neuron of the last layer spikes (ResNet-19 at first), all steps say the same


def step_weights(steps: torch.Tensor, weights: str) -> torch.Tensor:
    """W [B, T, T] of steps [B, T, C]: rows sum to 1, and the diagonal is 0 but for `average`."""
    count, classes = steps.shape[1:]
    if weights == "average":
        return steps.new_full((len(steps), count, count), 1 / count)
    logs = steps.log_softmax(-1)
    confidence = 1 + (logs.exp() * logs).sum(-1) / math.log(classes)
    unit = functional.normalize(steps, dim=-1)
    similarity = (unit[:, :, None] * unit[:, None]).sum(-1)
    scores = {
        "reliable": lambda: confidence[:, None] * similarity,
        "confidence": lambda: confidence[:, None].expand(-1, count, -1),
        "similarity": lambda: similarity,
        "uniform": lambda: steps.new_zeros(len(steps), count, count),
    }[weights]()
    itself = torch.eye(count, dtype=torch.bool, device=steps.device)
    return scores.masked_fill(itself, -torch.inf).softmax(-1)
