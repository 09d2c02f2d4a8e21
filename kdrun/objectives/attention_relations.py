"""Relations of queries, of keys and of values in self-attention."""

import math

from torch import Tensor
from torch.nn.functional import log_softmax

from kdrun.objectives.features import ANY_SIZE, products, wide

SEMANTICS = 1

EXCLUDED = -1e30
"""Finite, so that a sample without any position has no NaN in its gradient."""


def attention_relations(
    student_features: Tensor, teacher_features: Tensor, mask: Tensor | None = None, *, heads: int = 48, parts: int = 1
) -> Tensor:
    """Self-attention relations of MiniLMv2 (Wang et al. 2021, arXiv 2012.15828), equations 4 to 6.

        A: queries, or keys, or values of one layer, split into `heads` vectors of d numbers for each position
        R = softmax(A A^T / sqrt(d)) for each head
        value = mean over heads and positions of KL(R_teacher || R_student)

    summed over what is captured: give the projections of queries, keys and values (`student: [vit.layers.-1.attention.q_proj, and k_proj and
    v_proj]`), or one that holds them side by side with parts=3 (`blocks.5.attn.qkv`). The sum has weight 1 each, as in public
    code; the paper has a weight for each. Heads are those of relations (48 in the paper for teachers of 768 numbers), not of attention, so
    that widths and attention heads of the networks may differ.

    student_features, teacher_features: float [B, L, parts * D], computed in float32 or wider. mask: bool [B, L], True where a position
    counts; None: all do. Returns [B], or with a mask [B, L] with the mean over heads at each position; equal features give exactly 0.
    Raises ValueError where D is no multiple of the heads.
    """
    student, teacher = wide(student_features, teacher_features)
    values = []
    for ours, theirs in zip(student.chunk(parts, -1), teacher.chunk(parts, -1), strict=True):
        q, p = _relations(ours, heads, mask), _relations(theirs, heads, mask)
        values.append((p.exp() * (p - q)).sum(-1).mean(1))
    value = sum(values)
    return value.mean(1) if mask is None else value


attention_relations.settings = ANY_SIZE
attention_relations.pairs = "sum"


def _relations(features: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """log R, [B, heads, L, L]; as good as -inf where the second position does not count."""
    width = features.shape[-1]
    if features.dim() != 3 or width % heads:
        raise ValueError(f"heads={heads} must divide the width of features [B, L, D], got {tuple(features.shape)}")
    split = features.unflatten(-1, (heads, width // heads)).transpose(1, 2)
    scores = products(split, split) / math.sqrt(width // heads)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], EXCLUDED)
    return log_softmax(scores, -1)
