"""How far two networks disagree on a sample, and how far the one may then teach the other.

The gate follows FedeKD (arXiv 2605.05553): an energy per sample, normalised over a batch, through a logistic function with
one scale beta. Its exact equations could not be read; what had to be inferred is marked "inferred" below and is an option.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdrun.federation.methods.options import ENERGIES, GATES, NORMS

EPS = 1e-8


def energy(
    private_logits: Tensor,
    proxy_logits: Tensor,
    kind: str = "disagreement",
    norm: str = "entropy",
    temperature: float = 1.0,
) -> Tensor:
    """float32 [B]: how little the proxy is to be trusted on each sample, from logits float [B, C] of both networks.

    With p = softmax(private / T), q = softmax(proxy / T), and H the Shannon entropy in nats:
    disagreement  (KL(p||q) + KL(q||p)) / 2, divided by H(p) + H(q) + 1e-8 (norm=entropy; that the entropies of both are
                  added is inferred) or by log C (norm=log_classes; an inferred second reading)
    free_energy   -T logsumexp(proxy / T): Liu et al. 2020 (arXiv 2010.03759), equation 4, high on samples that are unlike
                  those that the proxy learned. It does not look at the private network; the norm does not count
    entropy       H(q) / log C: a proxy that is unsure is trusted less; the private network and the norm do not count
    A class that both networks exclude (logit -inf) adds nothing; one that a single network excludes makes the disagreement
    infinite. Raises ValueError for another kind or norm, and where the shapes disagree.
    """
    if private_logits.shape != proxy_logits.shape:
        raise ValueError(f"logits {tuple(private_logits.shape)} and {tuple(proxy_logits.shape)} disagree")
    if kind == "free_energy":
        return -temperature * torch.logsumexp(proxy_logits.float() / temperature, -1)
    if kind not in ("disagreement", "entropy") or norm not in NORMS:
        raise ValueError(f"kind={kind}, norm={norm}: expected one of {ENERGIES[:3]} and of {NORMS}")
    log_q = torch.log_softmax(proxy_logits.float() / temperature, -1)
    q = log_q.exp()
    log_classes = math.log(proxy_logits.shape[-1])
    if kind == "entropy":
        return -_negative_entropies(q, log_q).sum(-1) / log_classes
    log_p = torch.log_softmax(private_logits.float() / temperature, -1)
    p = log_p.exp()
    # KL(p||q) + KL(q||p) = sum (p - q)(log p - log q)
    both = ((p - q) * (log_p - log_q).masked_fill(log_p == log_q, 0.0)).sum(-1)
    if norm == "log_classes":
        return 0.5 * both / log_classes
    return 0.5 * both / (EPS - (_negative_entropies(p, log_p) + _negative_entropies(q, log_q)).sum(-1))


def _negative_entropies(p: Tensor, log_p: Tensor) -> Tensor:
    """p log p of each class, 0 for one that is excluded (p = 0)."""
    return p * log_p.masked_fill(p == 0, 0.0)


def squared_error(private: Tensor, proxy: Tensor) -> Tensor:
    """float32 [B]: the energy of regression, the squared difference of two predictions [B, D], summed over D."""
    return (private.float() - proxy.float()).square().sum(-1)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of [B], detached; the deviation is of the batch itself (divided by B), 0 for a single sample."""
    values = values.detach()
    mean = values.mean()
    return mean, (values - mean).square().mean().sqrt()


def gate(values: Tensor, kind: str = "logistic", beta: float = 1.0, statistics=None) -> Tensor:
    """[B] in 0..1: the trust in the proxy on each sample, from energies [B].

    With z = (value - mean) / (deviation + 1e-8), where (mean, deviation) are `statistics`, by default those of the batch:
    logistic  sigmoid(-beta z): near 1 where the energy is low, 0.5 at the mean, near 0 where it is high; beta=0 is 0.5
    hard      1 where z <= 0, else 0: the limit of a large beta; it has no gradient (inferred, a control)
    constant  0.5 everywhere: about the mean of the logistic gate, so that what is taught has the same weight in sum (a control)
    off       1 everywhere: against the logistic gate, this doubles the weight of what is taught too
    Gradients flow through `values` where the caller did not detach them, never through the statistics.
    """
    if kind == "off":
        return torch.ones_like(values)
    if kind == "constant":
        return torch.full_like(values, 0.5)
    mean, deviation = moments(values) if statistics is None else statistics
    z = (values - mean) / (deviation + EPS)
    if kind == "logistic":
        return torch.sigmoid(-beta * z)
    if kind == "hard":
        return (z.detach() <= 0).to(values.dtype)
    raise ValueError(f"gate={kind}: expected one of {GATES}")


class Running:
    """Mean and deviation of energies over batches, for batches too small to have their own (inferred, an option).

    Exponential averages of the batch mean and of the mean square about the running mean, with the momentum that batch
    normalisation has; the first batch is taken whole.
    """

    def __init__(self, momentum: float = 0.1):
        self.momentum = momentum
        self.mean: Tensor | None = None
        self.variance: Tensor | None = None

    def update(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes in a batch of energies [B] and gives (mean, deviation) with it."""
        mean, deviation = moments(values)
        if self.mean is None:
            self.mean, self.variance = mean, deviation.square()
        else:
            step = mean - self.mean
            self.mean = self.mean + self.momentum * step
            # Of a mixture with weights 1 - m and m: its variance has the distance of the two means in it.
            kept, new = 1 - self.momentum, self.momentum
            self.variance = kept * self.variance + new * deviation.square() + kept * new * step.square()
        return self.mean, self.variance.sqrt()

    def state_dict(self) -> dict[str, float]:
        """Plain numbers, {} before the first batch."""
        return {} if self.mean is None else {"mean": float(self.mean), "variance": float(self.variance)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.mean = torch.tensor(state["mean"]) if state else None
        self.variance = torch.tensor(state["variance"]) if state else None
