"""Divergences between two distributions over classes, with their gradients written out; used by the terms, no term itself.

All take log-probabilities of the student (log_q) and the teacher (log_p) and a spare array, each [..., C], and overwrite
all three: over a vocabulary every further array counts. They give the value [...] in nats and, if asked, the slope
[..., C], its derivative by the student's logits divided by the temperature. Equal distributions give exactly 0 in both.

A class that a network excludes (logit -inf) has the probability 0, and 0 * log 0 = 0: nothing is added by a class that both
exclude, or the one over whose probabilities the sum goes. Where only the other excludes it, the Kullback-Leibler divergence is
infinite. `careful` computes this; without it such classes may give NaN. Logits of NaN or +inf, and rows of -inf alone, are no
distribution and give NaN, which ends a run as any loss that is not finite does.
"""

from __future__ import annotations

import torch

FAR = 80.0
"""Differences of log-probabilities beyond this are read as this: the lesser probability is then below 1e-34."""

Logs = torch.Tensor
Outcome = tuple[torch.Tensor, torch.Tensor | None]


def forward(
    log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, share: float = 1.0, careful: bool = False
) -> Outcome:
    """KL(p || q) = sum p * (log p - log q); slope q - share * p."""
    p = torch.exp(log_p, out=spare)
    value = _weighted(log_p.sub_(log_q), p, careful).sum(-1)
    return value, log_q.exp_().sub_(p, alpha=share) if slope else None


def reverse(log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, careful: bool = False) -> Outcome:
    """KL(q || p) = sum q * (log q - log p); slope q * (log q - log p - value)."""
    ratio = torch.sub(log_q, log_p, out=spare)
    q = log_q.exp_()
    value = _weighted(ratio, q, careful).sum(-1)
    return value, ratio.addcmul_(q, value.unsqueeze(-1), value=-1) if slope else None


def _weighted(values: torch.Tensor, by: torch.Tensor, careful: bool) -> torch.Tensor:
    """values * by, in place; if `careful`, 0 where `by` is 0."""
    return (values.masked_fill_(by == 0, 0.0) if careful else values).mul_(by)


def jsd(log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, beta: float = 0.5, careful: bool = False) -> Outcome:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; slope (1 - beta) q * (log q / m - KL(q || m)).

    log q / m = -log(1 + beta * (p / q - 1)), and log p / m is that and log p / q: exact for distributions that are close,
    where the logarithm of m itself would be rounded by more than they differ.
    """
    p = torch.exp(log_p, out=spare)
    apart = _apart(log_q, log_p, p, careful)
    of_q = torch.expm1(apart).mul_(beta).log1p_().neg_()
    of_p = apart.add_(of_q).mul_(p).sum(-1)
    q = log_q.exp_()
    value = of_q.mul_(q).sum(-1)
    by_logits = of_q.addcmul_(q, value.unsqueeze(-1), value=-1).mul_(1 - beta) if slope else None
    return beta * of_p + (1 - beta) * value, by_logits


def skewed(
    log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, share: float = 0.1, careful: bool = False
) -> Outcome:
    """KL(p || m), m = share * p + (1 - share) * q; slope -(1 - share) * q * (p / m - 1 - sum q * (p / m - 1)).

    p / m is at most 1 / share, and its logarithm exact for distributions that are close: see `jsd`.
    """
    p = torch.exp(log_p, out=spare)
    of_p = _apart(log_q, log_p, p, careful)
    of_p = of_p.sub_(torch.expm1(of_p).mul_(share).log1p_())
    value = torch.mul(p, of_p, out=spare).sum(-1)
    if not slope:
        return value, None
    excess, q = of_p.expm1_(), log_q.exp_()
    weighed = excess.mul_(q)
    return value, weighed.addcmul_(q, weighed.sum(-1, keepdim=True), value=-1).mul_(share - 1)


def skewed_reverse(
    log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, share: float = 0.1, careful: bool = False
) -> Outcome:
    """KL(q || m), m = (1 - share) * p + share * q; slope q * (h - sum q * h), h = log q / m - share * (q / m - 1)."""
    p = torch.exp(log_p, out=spare)
    apart = _apart(log_q, log_p, p, careful)
    of_q = torch.expm1(apart, out=spare).mul_(1 - share).log1p_().neg_()
    q = log_q.exp_()
    value = torch.mul(q, of_q, out=apart).sum(-1)
    if not slope:
        return value, None
    by_q = of_q.sub_(torch.expm1(of_q, out=apart).mul_(share)).mul_(q)
    return value, by_q.addcmul_(q, by_q.sum(-1, keepdim=True), value=-1)


def _apart(log_q: Logs, log_p: Logs, p: torch.Tensor, careful: bool) -> torch.Tensor:
    """log p - log q in place of log p, within FAR; if `careful`, -FAR where p is 0."""
    apart = log_p.sub_(log_q)
    return (apart.masked_fill_(p == 0, -FAR) if careful else apart).clamp_(-FAR, FAR)


def total_variation(log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, careful: bool = False) -> Outcome:
    """sum |p - q| / 2; slope q * (sign(q - p) - sum q * sign(q - p)) / 2."""
    q = log_q.exp_()
    apart = torch.sub(q, log_p.exp_(), out=spare)
    value = apart.abs().sum(-1) / 2
    if not slope:
        return value, None
    weighed = torch.mul(apart.sign_(), q, out=log_p)
    return value, weighed.addcmul_(q, weighed.sum(-1, keepdim=True), value=-1).mul_(0.5)


def adaptive(
    log_q: Logs, log_p: Logs, spare: Logs, slope: bool = True, head: float = 0.5, careful: bool = False
) -> Outcome:
    """w * KL(p || q) + (1 - w) * KL(q || p), w the share of sum |p - q| in the head: the likeliest classes of p, of which p sums
    up to `head` at most, and always the first. w is held constant in the slope, and 1/2 at equality. Six further arrays."""
    p, order = log_p.exp().sort(-1, descending=True)
    gaps = log_q.exp().gather(-1, order).sub_(p).abs_()
    tail = p.cumsum(-1) > head
    tail[..., 0] = False
    whole = gaps.sum(-1)
    weight = torch.where(whole > 0, gaps.masked_fill_(tail, 0.0).sum(-1) / whole, 0.5)
    del p, order, gaps, tail
    again = log_q.clone(), log_p.clone()
    value, by_logits = forward(log_q, log_p, spare, slope, careful=careful)
    other, by_logits_reverse = reverse(*again, log_p, slope, careful=careful)
    # An infinite divergence counts where it has a share.
    sums = [torch.where(share > 0, share * x, 0.0) for share, x in ((weight, value), (1 - weight, other))]
    if by_logits is None or by_logits_reverse is None:
        return sums[0] + sums[1], None
    by_logits = by_logits.mul_(weight.unsqueeze(-1)).addcmul_(by_logits_reverse, (1 - weight).unsqueeze(-1))
    return sums[0] + sums[1], by_logits
