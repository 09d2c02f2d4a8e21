"""Soft targets from a teacher's most likely classes, everything else in one bucket: what can be kept on disk for text.

How `execution: topk` computes the loss kd.
"""

import torch

from kdrun.objectives.divergences import refuse_infinite

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
    if teacher_top_ids.shape != teacher_top_log_probs.shape or student_logits.shape[:-1] != teacher_top_ids.shape[:-1]:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)}, teacher_top_ids {tuple(teacher_top_ids.shape)} and "
            f"teacher_top_log_probs {tuple(teacher_top_log_probs.shape)} disagree"
        )
    if teacher_top_ids.shape[-1] != min(k, student_logits.shape[-1]):
        raise ValueError(f"the teacher gives {teacher_top_ids.shape[-1]} tokens per position, k={k} were asked for")
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    ids, log_p = teacher_top_ids.detach().long(), teacher_top_log_probs.detach().to(wide)
    log_q = torch.log_softmax(student_logits.to(wide), -1)
    top = log_q.gather(-1, ids)
    p = log_p.exp()
    value = torch.where(p == 0, 0.0, p * (log_p - top)).sum(-1)
    if not value.is_cuda:  # a GPU would have to wait
        refuse_infinite(value, "forward")
    if ids.shape[-1] == student_logits.shape[-1]:
        return value  # no class is left for the last bucket
    rest = (1 - p.sum(-1)).clamp(min=0)  # rounding may sum to a little more than 1
    others = log_q.scatter(-1, ids, -torch.inf)
    rest = rest.masked_fill((others == -torch.inf).all(-1), 0.0)
    # Zeros in place of what is not looked at: the derivative of logsumexp over nothing is NaN.
    log_rest = others.masked_fill((rest == 0).unsqueeze(-1), 0.0).logsumexp(-1)
    return value + torch.where(rest == 0, 0.0, rest * (rest.clamp(min=torch.finfo(wide).tiny).log() - log_rest))
