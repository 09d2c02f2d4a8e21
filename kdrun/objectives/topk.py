"""Soft targets from a teacher's most likely classes, everything else in one bucket: what can be kept on disk for text.

How `execution: topk` computes the losses that compare distributions class by class.
"""

import torch

from kdrun.objectives.divergences import MAY_BE_INFINITE, of_logits, refuse_infinite

SEMANTICS = 1


def kd_topk(
    student_logits: torch.Tensor,
    teacher_top_ids: torch.Tensor,
    teacher_top_log_probs: torch.Tensor,
    *,
    k: int = 16,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Divergence from teacher to student over k + 1 buckets, at temperature 1: word-level distillation (Kim and Rush 2016,
    arXiv 1606.07947, section 3.1) with the teacher cut to its k most likely tokens.

        p = (p_1 .. p_k, 1 - sum p_i),  q = (q_1 .. q_k, 1 - sum q_i)  at the teacher's k tokens
        value = sum_j p_j * (log p_j - log q_j)

    One value in nats per position. It is at most the full divergence (merging classes loses information) and 0 where both
    agree on the buckets. The teacher is a constant.

    student_logits: float [..., V], any float type, computed in float32 or wider.
    teacher_top_ids: integer [..., k], the teacher's most likely tokens. teacher_top_log_probs: float [..., k].
    k: tokens kept per position; what a cache of the teacher's outputs holds. temperature: 1; the rest has no other.
    Returns [...]. Raises ValueError where the shapes disagree, FloatingPointError where the student excludes (logit -inf) one
    of the k tokens and the teacher does not. Where it excludes all others, the last bucket adds nothing.
    """
    if temperature != 1:
        raise ValueError(f"the k likeliest classes tell the divergence at temperature 1 only, got {temperature}")
    log_p, log_q, rest, log_rest = _parts(student_logits, teacher_top_ids, teacher_top_log_probs, k)
    p = log_p.exp()
    value = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)
    if value.device.type == "cpu":  # a GPU would have to wait
        refuse_infinite(value, "forward")
    if rest is None:
        return value
    return value + torch.where(rest == 0, 0.0, rest * (rest.clamp(min=torch.finfo(rest.dtype).tiny).log() - log_rest))


def divergence_topk(
    student_logits: torch.Tensor,
    teacher_top_ids: torch.Tensor,
    teacher_top_log_probs: torch.Tensor,
    *,
    kind: str,
    beta: float = 0.5,
    skew: float | None = None,
    k: int = 16,
) -> torch.Tensor:
    """The divergence of a `kind` (divergences.KINDS) over the k + 1 buckets of `kd_topk`, at temperature 1.

    beta, skew: names of the same number, of which a kind has at most one. Equal networks give 0 up to the rounding of the last bucket.
    """
    log_q, log_p = _buckets(student_logits, teacher_top_ids, teacher_top_log_probs, k, kind in MAY_BE_INFINITE)
    return of_logits(log_q, log_p, kind, 1.0, beta if skew is None else skew)


def akl_topk(
    student_logits: torch.Tensor,
    teacher_top_ids: torch.Tensor,
    teacher_top_log_probs: torch.Tensor,
    *,
    head: float = 0.5,
    k: int = 16,
) -> torch.Tensor:
    """`akl` over the k + 1 buckets of `kd_topk`. The last bucket holds the least likely classes, so it is of the tail whatever
    its probability. Raises FloatingPointError where one network excludes one of the k classes and the other does not."""
    log_q, log_p = _buckets(student_logits, teacher_top_ids, teacher_top_log_probs, k, True)
    with torch.no_grad():
        p = log_p.exp()
        gaps, tail = (log_q.exp() - p).abs(), p.cumsum(-1) > head
        tail[..., 0] = False
        tail[..., k:] = True
        whole = gaps.sum(-1)
        weight = torch.where(whole > 0, gaps.masked_fill(tail, 0.0).sum(-1) / whole, 0.5)
    parts = (of_logits(log_q, log_p, kind, 1.0) for kind in ("forward", "reverse"))
    return sum(share * part for share, part in zip((weight, 1 - weight), parts, strict=True))


def _buckets(
    student_logits: torch.Tensor, ids: torch.Tensor, log_probs: torch.Tensor, k: int, floor: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log q, log p) [..., k + 1], or [..., k] where no class is left for the last bucket.

    floor: the teacher's last bucket holds no less than the last digit of float32, since k probabilities that sum to 1 in float32
    do not say that there is nothing beside them, and divergences from the student would be infinite.
    """
    log_p, log_q, rest, log_rest = _parts(student_logits, ids, log_probs, k)
    if rest is None:
        return log_q, log_p
    excluded = log_rest == -torch.inf
    log_p_rest = (rest.clamp(min=torch.finfo(torch.float32).eps) if floor else rest).log()
    log_p_rest = log_p_rest.masked_fill(excluded, -torch.inf)
    return torch.cat([log_q, log_rest[..., None]], -1), torch.cat([log_p, log_p_rest[..., None]], -1)


def _parts(
    student_logits: torch.Tensor, ids: torch.Tensor, log_probs: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(log p, log q [..., k] at the teacher's classes, p of the last bucket [...], log q of it); the last two None where no class
    is left. Where the student excludes all others, p of the last bucket is 0 and log q is -inf.

    Raises ValueError where shapes disagree.
    """
    if ids.shape != log_probs.shape or student_logits.shape[:-1] != ids.shape[:-1]:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)}, teacher_top_ids {tuple(ids.shape)} and "
            f"teacher_top_log_probs {tuple(log_probs.shape)} disagree"
        )
    if ids.shape[-1] != min(k, student_logits.shape[-1]):
        raise ValueError(f"the teacher gives {ids.shape[-1]} tokens per position, k={k} were asked for")
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    ids, log_p = ids.detach().long(), log_probs.detach().to(wide)
    every = torch.log_softmax(student_logits.to(wide), -1)
    log_q = every.gather(-1, ids)
    if ids.shape[-1] == student_logits.shape[-1]:
        return log_p, log_q, None, None
    rest = (1 - log_p.exp().sum(-1)).clamp(min=0)  # rounding may sum to a little more than 1
    others = every.scatter(-1, ids, -torch.inf)
    nothing = (others == -torch.inf).all(-1)
    rest = rest.masked_fill(nothing, 0.0)
    # Zeros in place of what is not looked at: the derivative of logsumexp over nothing is NaN.
    log_rest = others.masked_fill(nothing.unsqueeze(-1), 0.0).logsumexp(-1)
    return log_p, log_q, rest, log_rest.masked_fill(nothing, -torch.inf)
