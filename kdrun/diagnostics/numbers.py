"""Numbers of a student and its teacher, as functions of their outputs; docs/diagnostics.md defines each. In nats.

Logits are float [N, C] of the same N samples, targets int64 [N]. Constants of the reconstructed bound are kdrun's own: the
theorems of arXiv 2605.13143 are known without theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_LOSS = 5.0
"""Losses of single samples are clipped at this many nats in gaps and bounds, which makes them sub-Gaussian (constant at most 2.5)."""
SHARE = 0.01
"""Length of a perturbation, as a share of the norm of the weights."""
DRAWS = 20
VARIANCE = 0.99
"""The rank of features is the number of directions that hold this share of their variance."""


def divergence(student: Tensor, teacher: Tensor) -> float:
    """Mean over samples of KL(softmax(student) || softmax(teacher))."""
    ours, theirs = (logits.double().log_softmax(1) for logits in (student, teacher))
    p = ours.exp()
    return float(torch.where(p == 0, 0.0, p * (ours - theirs)).sum(1).mean())


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample, clipped at LARGEST_LOSS: float64 [N]."""
    return functional.cross_entropy(logits.double(), targets, reduction="none").clamp(max=LARGEST_LOSS)


def gap(train: Tensor, test: Tensor) -> dict[str, float]:
    """Of the clipped losses of samples [N] and [M]: {"train", "test": means, "gap": test minus train, "variance": of the gap}.

    variance: that of the gap over bootstrap draws of both sets. Of a mean it is known without drawing: the variance of the set
    (divided by its size, not one less) over its size.
    """
    variance = sum(float(each.var(correction=0)) / len(each) for each in (train, test))
    means = {"train": float(train.mean()), "test": float(test.mean())}
    return {**means, "gap": means["test"] - means["train"], "variance": variance}


def reconstructed_bound(teacher: Mapping[str, float], student: Mapping[str, float], k_hat: float) -> dict[str, float]:
    """{"bound": gap of the teacher + sqrt(2 variance K_hat), "slack": bound minus the gap of the student}; see `gap` for the two."""
    bound = teacher["gap"] + math.sqrt(2 * teacher["variance"] * max(k_hat, 0.0))
    return {"bound": bound, "slack": bound - student["gap"]}


def agreement(student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, float]:
    """Shares of samples: "disagree" (another class is named), and what all samples divide into: "both_right", "only_student",
    "only_teacher", "same_wrong", "different_wrong"."""
    ours, theirs = student.argmax(1), teacher.argmax(1)
    right, taught, same = ours == targets, theirs == targets, ours == theirs
    parts = {
        "disagree": ~same,
        "both_right": right & taught,
        "only_student": right & ~taught,
        "only_teacher": ~right & taught,
        "same_wrong": ~right & same,
        "different_wrong": ~right & ~taught & ~same,
    }
    return {name: float(chosen.double().mean()) for name, chosen in parts.items()}


def rank(features: Tensor) -> dict[str, float]:
    """Of features [N, D] around their mean: {"width": D, "rank": number of directions that hold VARIANCE of the variance, "effective":
    exp of the entropy of the singular values divided by their sum (Roy and Vetterli 2007)}. Both are 0 where all are equal."""
    features = features.double()
    values = torch.linalg.svdvals(features - features.mean(0))
    total = float(values.sum())
    if total <= 1e-12 * max(1.0, float(features.abs().max())) * len(features):
        return {"width": features.shape[1], "rank": 0, "effective": 0.0}
    held = (values**2).cumsum(0) / (values**2).sum()
    shares = values / total
    entropy = -float(torch.where(shares > 0, shares * shares.clamp(min=1e-300).log(), 0.0).sum())
    return {"width": features.shape[1], "rank": int((held < VARIANCE).sum()) + 1, "effective": math.exp(entropy)}


def bias_and_variance(members: Sequence[Tensor], targets: Tensor) -> dict[str, Any]:
    """Of M teachers' logits: {"members": M, "loss": mean cross-entropy of a member, "bias": that of their centre, "variance": mean
    KL(centre || member)}. loss = bias + variance exactly.

    The centre is the normalised geometric mean of the members' probabilities, from which the mean KL is least (Heskes 1998).
    """
    logs = torch.stack([logits.double().log_softmax(1) for logits in members])
    centre = logs.mean(0).log_softmax(1)
    variance = float((centre.exp() * (centre - logs)).sum(2).mean())
    bias = float(functional.nll_loss(centre, targets))
    loss = float(torch.stack([functional.nll_loss(each, targets) for each in logs]).mean())
    return {"members": len(logs), "loss": loss, "bias": bias, "variance": variance}


def sharpness(network: nn.Module, loss: Callable[[], Tensor], seed: int = 0) -> dict[str, float]:
    """How much a loss rises around a network's weights w: {"gaussian": mean over DRAWS of L(w + d) - L(w), "ascent": L(w + e) - L(w)}.

    d  independent normal numbers, in each parameter tensor of the expected norm SHARE times the tensor's norm
    e  along the gradient, of the length SHARE times the norm of all parameters: one ascent step of SAM (arXiv 2010.01412)

    loss: mean loss of fixed samples with the network as it is now. The weights are afterwards as they were.
    """
    parameters = [each for each in network.parameters() if each.is_floating_point()]
    kept, wanted = [each.detach().clone() for each in parameters], [each.requires_grad for each in parameters]
    generator = torch.Generator().manual_seed(seed)

    def at(shifts: Sequence[Tensor]) -> float:
        with torch.no_grad():
            for each, own, shift in zip(parameters, kept, shifts, strict=True):
                each.copy_(own + shift)
            return float(loss())

    def drawn(own: Tensor) -> Tensor:
        normal = torch.randn(own.shape, generator=generator, dtype=torch.float64).to(own)
        return normal * (SHARE * own.norm() / math.sqrt(own.numel()))

    try:
        here = at([torch.zeros_like(own) for own in kept])
        random = [at([drawn(own) for own in kept]) - here for _ in range(DRAWS)]
        at([torch.zeros_like(own) for own in kept])
        for each in parameters:
            each.requires_grad_(True)
        found = torch.autograd.grad(loss(), parameters, allow_unused=True)
        slopes = [torch.zeros_like(own) if g is None else g for own, g in zip(kept, found, strict=True)]
        length = SHARE * float(torch.nn.utils.get_total_norm(kept))
        norm = float(torch.nn.utils.get_total_norm(slopes))
        ascent = at([slope * (length / norm) for slope in slopes]) - here if norm > 0 else 0.0
    finally:
        with torch.no_grad():
            for each, own, learns in zip(parameters, kept, wanted, strict=True):
                each.copy_(own)
                each.requires_grad_(learns)
    return {"gaussian": sum(random) / DRAWS, "ascent": ascent}
