"""Soft targets of a teacher with another tokenizer: whole distributions where tokens coincide, probabilities of pieces of text elsewhere."""

import torch

from kdrun.objectives.kd import kd
from kdrun.objectives.wide import widened

SEMANTICS = 1
MOST = -1e-7
"""Log-probabilities of a span are read as at most this: one minus a probability of 1 has no logarithm."""


def aligned_kd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_spans: torch.Tensor | None = None,
    teacher_coincide: torch.Tensor | None = None,
    teacher_span_log_probs: torch.Tensor | None = None,
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Word-level distillation (arXiv 1606.07947) of text that two tokenizers cut differently; spans as of arXiv 2503.20083.

    A span is a piece of text between two places, as near as possible, where a token ends for both tokenizers.

        where the span is one token of both:   kd at temperature T, over the tokens that both vocabularies have
        else, with P and Q its probability:    P log P/Q + (1 - P) log (1 - P)/(1 - Q)

    P of the teacher and Q of the student are products over the span's tokens, each after the same text. The second case compares two
    outcomes, this piece of text or another, at temperature 1. One value in nats at the position before a span's first token, 0 at the
    others. With one tokenizer every token is a span and the value is that of kd, bit for bit. The teacher is a constant.

    student_logits: float [B, L, V]. targets: int64 [B, L], the next tokens.
    teacher_logits: float [B, L, V + more]: column v is of the student's token v, -inf where the teacher has no such token: the student's
        probability is then taken among the others. Further columns, of tokens of the teacher alone, are not compared.
    teacher_spans: integer [B, L], tokens of the student in the span that begins with the next one; 0 inside of spans and where nothing
        is compared. None: the tokenizers are one. teacher_coincide: bool [B, L], where a span is one token of both.
        teacher_span_log_probs: float [B, L], log P where it is not.
    Returns [B, L]. Raises ValueError where shapes disagree.
    """
    tokens = student_logits.shape[-1]
    teacher_logits = teacher_logits.detach()
    if teacher_logits.shape[:-1] != student_logits.shape[:-1] or teacher_logits.shape[-1] < tokens:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)} disagree"
        )
    if teacher_spans is None:
        return kd(student_logits, teacher_logits[..., :tokens], temperature=temperature)
    value = student_logits.new_zeros(targets.shape, dtype=torch.promote_types(student_logits.dtype, torch.float32))
    alike = teacher_coincide & (teacher_spans > 0)
    theirs = teacher_logits[..., :tokens][alike]
    ours = student_logits[alike]
    ours = ours.masked_fill(theirs == -torch.inf, -torch.inf)
    value = value.masked_scatter(alike, kd(ours, theirs, temperature=temperature).to(value.dtype))
    merged = (teacher_spans > 0) & ~teacher_coincide
    log_q = _of_spans(student_logits, targets, teacher_spans)
    log_p = widened(teacher_span_log_probs.detach())
    return torch.where(merged, two_outcomes(log_p, torch.where(merged, log_q, -1.0)), value)


def _of_spans(logits: torch.Tensor, targets: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """[B, L]: log-probability of the span that begins at each position, 0 where none does."""
    logs = torch.log_softmax(widened(logits), -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    places = torch.arange(spans.shape[1], device=spans.device).expand_as(spans)
    first = torch.where(spans > 0, places, 0).cummax(1).values
    inside = places < first + spans.gather(1, first)
    return torch.zeros_like(logs).scatter_add(1, first, torch.where(inside, logs, 0.0))


def two_outcomes(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL of (P, 1 - P) and (Q, 1 - Q) from log P and log Q; exactly 0 where they are equal."""
    log_p, log_q = log_p.clamp(max=MOST), log_q.clamp(max=MOST)
    p = log_p.exp()
    likely = torch.where(p == 0, 0.0, p * (log_p - log_q))
    rest = [(-torch.expm1(x)).log() for x in (log_p, log_q)]
    return likely - torch.expm1(log_p) * (rest[0] - rest[1])
