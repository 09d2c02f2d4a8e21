"""MiniLLM: the reverse divergence of whole texts that a student writes, with what each token does to the tokens after it."""

import torch

from kdrun.objectives.divergences import of_logits
from kdrun.objectives.wide import wide_pair

SEMANTICS = 1


def minillm(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor | None = None,
    written: torch.Tensor | None = None,
    documents: torch.Tensor | None = None,
    mixture: float = 0.0,
    sampled_log_probs: torch.Tensor | None = None,
    *,
    normalised: bool = True,
    clip: float | None = None,
) -> torch.Tensor:
    """Policy gradient of the reverse divergence of texts (Gu et al. 2024, arXiv 2306.08543, section 2.2 and equation 7).

    Of a text y_1 ... y_n that was drawn, with p of the teacher and q of the student at each token t:

        r_t = log p(y_t) - log q(y_t),   R_t = mean of r over the tokens after t (normalised), or their sum; 0 at the last
        w_t = q(y_t) / (a p(y_t) + (1 - a) q(y_t))
        gradient of the value at t = w_t * gradient of [ KL(q_t || p_t) - R_t * log q(y_t) ],   w_t and R_t being constants

    The divergence is the paper's part of single steps, exact over the vocabulary; R_t is its part of later tokens, whose mean in place
    of the sum is the paper's length normalisation. w_t is its weight of importance for tokens drawn from a mixture of both networks, of
    which the teacher has the share a. The value is w_t * KL(q_t || p_t), in nats: the part of later tokens has a gradient and the value 0. There
    is no temperature: texts have to be drawn at 1. The teacher is a constant.

    Where texts were drawn some steps ago, with probabilities o, rewards and w_t are those of that time (o in the place of q), and the part of
    later tokens is the paper's clipped one, with s_t = w_t q(y_t) / o(y_t) and c the clip:

        gradient of -min(s_t R_t, clip(s_t, 1 - c, 1 + c) R_t)

    The paper's code does not weight the divergence by w_t, brings R to mean 0 and deviation 1 over the batch, and clips rewards; equation 7
    does none of this, and it is taken.

    student_logits, teacher_logits: float [B, L, V], computed in float32 or wider. A token that the teacher excludes (logit -inf) makes the
        divergence infinite.
    written: int64 [B, L], the token drawn at each place; None for a batch that the student did not write (of `strategy=vanilla`, or of the
        data in `on_policy`), where the value is `kl_reverse`.
    mask: bool [B, L], where one was drawn. documents: int64 [B, L], which text of its row a place is of, from 1 in ascending order (0:
        padding); None: rows are of one text. mixture: a, from 0 to below 1. sampled_log_probs: log o, float [B, L]; None: it is log q.
    clip: c, of how far s_t counts (the paper: 0.2); None: it does however far it is.
    Returns [B, L]; equal logits give exactly 0 and no gradient. Raises ValueError where the shapes disagree.
    """
    single = of_logits(student_logits, teacher_logits, "reverse", 1.0)
    if written is None:
        return single
    inside = torch.ones_like(written, dtype=torch.bool) if mask is None else mask
    sides = (x.log_softmax(-1) for x in wide_pair(student_logits, teacher_logits, "logits"))
    log_q, log_p = (x.gather(-1, written.unsqueeze(-1)).squeeze(-1) for x in sides)
    constant = log_q.detach()
    drawn = constant if sampled_log_probs is None else sampled_log_probs.to(constant)
    rewards = torch.where(inside, log_p - drawn, 0.0)
    later = _later(rewards, inside, inside.long() if documents is None else documents, normalised)
    share = torch.tensor([mixture, 1 - mixture], device=log_q.device, dtype=log_q.dtype).log()
    weight = (drawn - torch.logsumexp(torch.stack([log_p, drawn], -1) + share, -1)).exp() if mixture else 1.0
    if sampled_log_probs is None and clip is None:
        return weight * (single - later * (log_q - constant))
    ratio = weight * torch.where(inside, log_q - drawn, 0.0).exp()
    gain = ratio * later
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * later)
    return weight * single - (gain - gain.detach())


def _later(rewards: torch.Tensor, inside: torch.Tensor, documents: torch.Tensor, normalised: bool) -> torch.Tensor:
    """[B, L]: sum, or mean, of the rewards after each place in its document."""
    sums, counts = (_after(x, documents) for x in (rewards, inside.to(rewards.dtype)))
    return sums / counts.clamp(min=1) if normalised else sums


def _after(values: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """[B, L]: sum of the values behind each place in its document."""
    totals = values.new_zeros(len(values), int(documents.max()) + 1).scatter_add(1, documents, values)
    before = totals.cumsum(1) - totals  # of the documents of smaller numbers; padding, number 0, has no values
    return totals.gather(1, documents) + before.gather(1, documents) - values.cumsum(1)
