"""What is asked of the losses in vocabulary.py."""

from __future__ import annotations

from dataclasses import dataclass

from kdrun.objectives.divergences import check

BUFFERS = 4
"""Arrays of chunk times vocabulary that are held at one time."""


@dataclass(frozen=True)
class Settings:
    """value = ce * cross-entropy + kd * T^2 * divergence, per position.

    ce, kd: factors, at least 0. kind: "forward" KL(teacher || student), "reverse" or "jsd" with `beta`.
    temperature: T of the divergence; the cross-entropy has none. label_smoothing: see objectives.ce.
    chunk: positions at a time; None: as many as BUFFERS arrays in `memory_mb` MiB hold, at least one.
    recompute: for a sum that weighs positions differently and an output layer that learns: its gradient is not computed
        ahead (see vocabulary.Chunked). A matter of time only; values and gradients are right either way.
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
        bound = self.chunk or max(1, int(self.memory_mb * 2**20 / (BUFFERS * vocabulary * itemsize)))
        return max(1, -(-count // max(1, -(-count // bound))))
