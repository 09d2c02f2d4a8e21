"""The passes over chunks of positions that vocabulary.py makes; nothing of a chunk's logits is kept."""

from __future__ import annotations

from typing import Any

import torch

from kdrun.objectives.divergences import divergence, forward, refuse_infinite
from kdrun.objectives.vocabulary_settings import Settings

# Shapes: N positions, n of a chunk, V rows used, D width.


class Pass:
    """All chunks once. Inputs are cut to the rows used; three arrays [n, V] serve all chunks."""

    def __init__(self, ctx: Any, hidden, head, bias, teacher_hidden, teacher_head, teacher_bias, targets):
        self.settings: Settings = ctx.settings
        self.rows, self.narrow = ctx.rows, ctx.narrow
        self.head_shape, self.targets, self.count = head.shape, targets, len(hidden)
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.student = self._cut(hidden, head, bias)
        self.teacher = None if teacher_hidden is None else self._cut(teacher_hidden, teacher_head, teacher_bias)
        self.size = self.settings.positions(self.count, self.rows, self.wide.itemsize)
        size = min(self.size, self.count)
        self.arrays = [hidden.new_empty((size, self.rows), dtype=self.wide) for _ in range(3 if self.teacher else 2)]

    def _cut(self, hidden, head, bias):
        dtype = self.narrow or torch.promote_types(hidden.dtype, head.dtype)
        head, bias = head[: self.rows], None if bias is None else bias[: self.rows]
        return hidden.to(dtype), head.to(dtype), None if bias is None else bias.to(dtype)

    def run(self, wanted: list[bool], gradient: torch.Tensor | None = None):
        """(values [N], derivatives by hidden [N, D], head [V_s, D] and bias [V_s] as far as wanted, else None).

        gradient: of the values [N], what each value's derivative is multiplied by; None: 1. Sums over chunks are kept in
        float32 or wider whatever the type of the head; rows that are not used stay 0.
        """
        hidden, head, _ = self.student
        values = hidden.new_empty(self.count, dtype=self.wide)
        shapes = (hidden.shape, self.head_shape, self.head_shape[:1])
        by_hidden, by_head, by_bias = (
            hidden.new_zeros(shape, dtype=self.wide) if asked else None
            for shape, asked in zip(shapes, wanted, strict=True)
        )
        for start in range(0, self.count, self.size):
            part = slice(start, min(start + self.size, self.count))
            values[part], slope, factor = self.chunk(part, any(wanted))
            if slope is None:
                continue
            scale = torch.full_like(values[part], factor) if gradient is None else factor * gradient[part].to(self.wide)
            narrow = slope.to(hidden.dtype)
            if by_hidden is not None:
                by_hidden[part] = torch.mm(narrow, head).mul(scale.unsqueeze(1))
            if by_head is not None:
                scaled = (scale.unsqueeze(1) * hidden[part]).to(hidden.dtype)
                total = by_head[: self.rows]
                total.addmm_(narrow.t(), scaled) if total.dtype == scaled.dtype else total.add_(narrow.t() @ scaled)
            if by_bias is not None:
                by_bias[: self.rows] += scale @ slope
        return values, (by_hidden, by_head, by_bias)

    def chunk(self, part: slice, slope: bool, careful: bool = False):
        """(values [n], slope [n, V] or None, factor): slope times factor is the derivative of the values by the logits.

        careful: with regard to excluded classes, see divergences.py.
        """
        settings, temperature = self.settings, self.settings.temperature
        first, second, *third = (array[: part.stop - part.start] for array in self.arrays)
        logits = self.logits(self.student, part, first)
        value, labelled = 0.0, None
        if settings.ce:
            log_q = torch.log_softmax(logits, -1, out=second)
            value = settings.ce * self.cross_entropy(log_q, part)
        if not settings.kd:
            return value, self.less_label(log_q.exp_(), part) if slope else None, settings.ce
        shared = settings.kind == "forward" and temperature == 1
        if settings.ce and slope and not shared:
            labelled = self.less_label(log_q.exp(), part)
        if not settings.ce or temperature != 1:
            log_q = torch.log_softmax(logits.div_(temperature) if temperature != 1 else logits, -1, out=second)
        logits = self.logits(self.teacher, part, first)
        log_p = torch.log_softmax(logits.div_(temperature) if temperature != 1 else logits, -1, out=third[0])
        if shared:
            # ce * (q - label) + kd * (q - p) in one pass over the vocabulary
            factor = settings.ce + settings.kd
            apart, found = forward(log_q, log_p, first, slope, settings.kd / factor, careful)
            if settings.ce and slope:
                self.less_label(found, part, settings.ce / factor)
        else:
            factor = settings.kd * temperature
            apart, found = divergence(settings.kind, log_q, log_p, first, slope, settings.beta, careful)
            if labelled is not None:
                found, factor = found.mul_(factor).add_(labelled, alpha=settings.ce), 1.0
        if not bool(apart.isfinite().all()):
            if not careful:
                return self.chunk(part, slope, careful=True)
            refuse_infinite(apart, settings.kind)
        return value + settings.kd * temperature**2 * apart, found, factor

    def logits(self, who: tuple, part: slice, out: torch.Tensor) -> torch.Tensor:
        hidden, head, bias = who
        if hidden.dtype != out.dtype:
            return out.copy_(torch.nn.functional.linear(hidden[part], head, bias))
        if bias is None:
            return torch.mm(hidden[part], head.t(), out=out)
        return torch.addmm(bias, hidden[part], head.t(), out=out)

    def cross_entropy(self, log_q: torch.Tensor, part: slice) -> torch.Tensor:
        smoothing = self.settings.label_smoothing
        value = -log_q.gather(1, self.targets[part].unsqueeze(1)).squeeze(1)
        return (1 - smoothing) * value - smoothing * log_q.mean(1) if smoothing else value

    def less_label(self, slope: torch.Tensor, part: slice, share: float = 1.0) -> torch.Tensor:
        """slope less `share` of the (smoothed) label, in place."""
        smoothing, targets = self.settings.label_smoothing, self.targets[part].unsqueeze(1)
        if smoothing:
            slope.sub_(share * smoothing / self.rows)
        return slope.scatter_add_(1, targets, slope.new_full(targets.shape, -share * (1 - smoothing)))
