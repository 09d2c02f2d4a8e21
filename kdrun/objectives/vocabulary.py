"""Losses over a large vocabulary from hidden states and output layers, a few positions at a time; used by the terms.

Logits of all positions are never there at once, neither the student's nor the teacher's: a chunk's are computed, used
and overwritten by the next. See docs/vocabulary-losses.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kdrun.objectives.divergence_forms import forward
from kdrun.objectives.divergences import check, divergence, refuse_infinite

BUFFERS = 4
"""Arrays of chunk times vocabulary that are held at one time."""
SORTING = 6
"""Further ones of the divergence `adaptive`."""


@dataclass(frozen=True)
class Settings:
    """value = ce * cross-entropy + kd * T^2 * divergence, per position.

    ce, kd: factors, at least 0. kind: of divergences.KINDS, with its `beta`.
    temperature: T of the divergence; the cross-entropy has none. label_smoothing: see objectives.ce.
    chunk: positions at a time; None: as many as BUFFERS arrays in `memory_mb` MiB hold, at least one.
    recompute: for a sum that weighs positions differently and an output layer that learns: its gradient is not computed
        ahead (see Chunked). A matter of time only; values and gradients are right either way.
    """

    ce: float = 0.0
    kd: float = 0.0
    kind: str = "forward"
    temperature: float = 1.0
    beta: float = 0.5
    label_smoothing: float = 0.0
    chunk: int | None = None
    memory_mb: float = 128.0
    recompute: bool = False

    def __post_init__(self) -> None:
        check(self.kind, self.temperature, self.beta)
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must lie in 0..1, got {self.label_smoothing}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 position, got {self.chunk}")
        if not self.memory_mb > 0:
            raise ValueError(f"memory_mb must be above 0, got {self.memory_mb}")
        if not self.ce and not self.kd:
            raise ValueError("one of ce and kd must be above 0")
        for name in ("ce", "kd"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")

    def positions(self, count: int, vocabulary: int, itemsize: int = 4) -> int:
        """Positions per chunk for `count` in all; chunks are made about equally long."""
        buffers = BUFFERS + SORTING * (self.kind == "adaptive")
        bound = self.chunk or max(1, int(self.memory_mb * 2**20 / (buffers * vocabulary * itemsize)))
        return max(1, -(-count // max(1, -(-count // bound))))


def rows_left_out(student_head: torch.Tensor, teacher_head: torch.Tensor) -> tuple[int, int]:
    """Rows of the student's and of the teacher's output layer, [V_s, D] and [V_t, D2], that the other does not have.

    Output layers of one tokenizer may be padded to different widths; no token belongs to the rows beyond the common ones.
    """
    common = min(len(student_head), len(teacher_head))
    return len(student_head) - common, len(teacher_head) - common


def vocabulary_values(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    teacher_hidden: torch.Tensor | None = None,
    teacher_head: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    student_bias: torch.Tensor | None = None,
    teacher_bias: torch.Tensor | None = None,
    *,
    settings: Settings,
) -> torch.Tensor:
    """One value per position, as the dense terms give on `hidden @ head.T + bias`, with gradients for the student's three.

    student_hidden: float [..., D]; student_head: [V_s, D]; student_bias: [V_s]. teacher_hidden: float [..., D2];
    teacher_head: [V_t, D2]; teacher_bias: [V_t]; constants. targets: int64 [...], below the number of rows used.
    With a teacher, whatever its factor, everything is over the rows that both have (see `rows_left_out`), the cross-entropy
    as well.
    Products are computed in the type of hidden states and head, under autocast in autocast's; all else in float32 or wider.
    Returns [...]. Raises ValueError where shapes disagree or a factor above 0 lacks its tensors, IndexError for a target
    that no row has.
    """
    shape = student_hidden.shape[:-1]
    rows = len(student_head)
    _fits("student", student_hidden, student_head, student_bias)
    teacher = (None, None, None)
    if teacher_head is not None:
        rows = min(rows, len(teacher_head))
    if settings.kd:
        if teacher_hidden is None or teacher_head is None:
            raise ValueError("a divergence needs teacher_hidden and teacher_head")
        _fits("teacher", teacher_hidden, teacher_head, teacher_bias)
        if teacher_hidden.shape[:-1] != shape:
            raise ValueError(
                f"student_hidden {tuple(student_hidden.shape)} and teacher_hidden {tuple(teacher_hidden.shape)} disagree"
            )
        teacher = (teacher_hidden.detach().flatten(0, -2), teacher_head.detach(), teacher_bias)
    labels = None
    if settings.ce:
        if targets is None or targets.shape != shape:
            found = None if targets is None else tuple(targets.shape)
            raise ValueError(f"student_hidden {tuple(student_hidden.shape)} and targets {found} disagree")
        labels = targets.flatten()
        here = (
            labels.numel() and labels.device.type == "cpu"
        )  # a GPU would have to wait, and refuses them where it looks them up
        if here and not (int(labels.min()) >= 0 and int(labels.max()) < rows):
            raise IndexError(f"a target lies outside of the {rows} rows used: {int(labels.min())}..{int(labels.max())}")
    flat = student_hidden.flatten(0, -2)
    tensors = (flat, student_head, student_bias, *teacher, labels)
    return Chunked.apply(*tensors, rows, settings, torch.is_grad_enabled()).view(shape)


def _fits(who: str, hidden: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None) -> None:
    if hidden.dim() < 2 or head.dim() != 2 or hidden.shape[-1] != head.shape[1]:
        raise ValueError(f"{who}_hidden {tuple(hidden.shape)} and {who}_head {tuple(head.shape)} disagree")
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(f"{who}_head {tuple(head.shape)} and {who}_bias {tuple(bias.shape)} disagree")


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
        waits = self.arrays[0].device.type == "cpu"  # see divergences.Divergence
        careful = careful or not waits
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
        if waits and not bool(apart.isfinite().all()):
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


class Chunked(torch.autograd.Function):
    """One value per position [N]; nothing of size N * V is kept.

    How the backward pass is right for any gradient of the values [N]: the derivative of one value by its own hidden state
    is computed with the value, [N, D], and multiplied by its gradient later. That by the output layer is a sum over
    positions: it is computed with the values as if all had one gradient, which is how the mean of a term comes back. Where
    they turn out to differ, or with `recompute`, the logits of each chunk are computed once more in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        bias: torch.Tensor | None,
        teacher_hidden: torch.Tensor | None,
        teacher_head: torch.Tensor | None,
        teacher_bias: torch.Tensor | None,
        targets: torch.Tensor | None,
        rows: int,
        settings: Settings,
        differentiable: bool,
    ) -> torch.Tensor:
        device = hidden.device.type
        ctx.rows, ctx.settings = rows, settings
        ctx.narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        tensors = (hidden, head, bias, teacher_hidden, teacher_head, teacher_bias, targets)
        ctx.save_for_backward(*tensors)
        wanted = [differentiable and asked for asked in ctx.needs_input_grad[:3]]
        if settings.recompute and any(wanted[1:]):
            wanted = [False] * 3
        with torch.autocast(device, enabled=False):
            values, ctx.ahead = Pass(ctx, *tensors).run(wanted)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:3])
        by_hidden, by_head, by_bias = ctx.ahead
        found: list[torch.Tensor | None] = [None] * 3
        if by_hidden is not None:
            found[0] = by_hidden * gradient.unsqueeze(1)
            wanted[0] = False
        even = len(gradient) > 0 and bool((gradient == gradient[0]).all())
        if even and (by_head is not None or by_bias is not None):
            # Given away and not copied: it has the size of the output layer. A second backward pass recomputes.
            found[1:] = [None if value is None else value.mul_(gradient[0]) for value in (by_head, by_bias)]
            wanted[1:] = [False] * 2
        ctx.ahead = (by_hidden, None, None)
        del by_head, by_bias
        if any(wanted):
            with torch.autocast(tensors[0].device.type, enabled=False):
                _, again = Pass(ctx, *tensors).run(wanted, gradient)
            found = [one if other is None else other for one, other in zip(found, again, strict=True)]
        found = [
            None if value is None else value.to(like.dtype) for value, like in zip(found, tensors[:3], strict=True)
        ]
        return (*found, *(None,) * 7)
