"""Soft-target losses of kdrun against those of TRL's GKDTrainer on random inputs: values, gradients, and what temperature does.

    python scripts/compare_losses.py

TRL is no part of kdrun's environment: an environment with both is made by `pip install trl==1.16.0 accelerate datasets`. Without it the
script says so and compares nothing. TRL's loss has no factor T^2; to compare with kdrun's it is multiplied by it here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch

from kdrun.objectives.jsd import jsd
from kdrun.objectives.kd import kd
from kdrun.objectives.kl_reverse import kl_reverse

SHAPES = ((8, 50), (64, 1_000), (16, 32_000))
"""Positions and tokens of the random logits."""
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
LARGEST = 1e-6
"""Of a difference in float64, relative to the largest number there is."""


def theirs() -> Callable[..., torch.Tensor] | None:
    """TRL's generalised Jensen-Shannon divergence; None where TRL cannot be imported."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        from trl.experimental.gkd import GKDTrainer
    except ImportError as error:
        print(f"nothing to compare with: {error}")
        return None
    return GKDTrainer.generalized_jsd_loss


def logits(positions: int, tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a student and a teacher: standard normal, that of the student with a gradient."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, positions, tokens, generator=draw, dtype=dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def with_gradient(value: torch.Tensor, student: torch.Tensor) -> tuple[float, torch.Tensor]:
    """(the value, its gradient by the student's logits)."""
    return float(value), torch.autograd.grad(value, student)[0]


def compare(other: Callable[..., torch.Tensor]) -> float:
    """Prints the largest relative differences in values and gradients of each loss, over all shapes and temperatures. Returns the largest
    in float64."""
    ours = {"kd": (0.0, kd), "kl_reverse": (1.0, kl_reverse)}
    ours |= {f"jsd, beta {b}": (b, lambda *pair, b=b, **rest: jsd(*pair, beta=b, **rest)) for b in (0.1, 0.5, 0.9)}
    worst = 0.0
    for name, (beta, loss) in ours.items():
        found = {}
        for dtype in (torch.float64, torch.float32):
            values, gradients = [], []
            for positions, tokens in SHAPES:
                student, teacher = logits(positions, tokens, dtype)
                for temperature in TEMPERATURES:
                    here, slope = with_gradient(loss(student, teacher, temperature=temperature).mean(), student)
                    labels = torch.zeros(1, positions, dtype=torch.int64)
                    value = other(student, teacher, labels=labels, beta=beta, temperature=temperature)
                    there, steepness = with_gradient(temperature**2 * value, student)
                    values.append(abs(here - there) / abs(there))
                    gradients.append(float((slope - steepness).abs().max() / steepness.abs().max()))
            found[dtype] = max(values), max(gradients)
        worst = max(worst, *found[torch.float64])
        shown = "; ".join(f"{str(dtype)[6:]}: {value:.1e}, {slope:.1e}" for dtype, (value, slope) in found.items())
        print(f"{name:14} largest relative difference of value, of gradient: {shown}")
    return worst


def flatness(other: Callable[..., torch.Tensor]) -> None:
    """Prints the size of the gradient for each temperature."""
    student, teacher = logits(64, 1_000, torch.float64)
    labels = torch.zeros(1, 64, dtype=torch.int64)
    ways = {
        "kdrun kd": lambda t: kd(student, teacher, temperature=t).mean(),
        "TRL, beta 0": lambda t: other(student, teacher, labels=labels, beta=0.0, temperature=t),
        "kdrun jsd": lambda t: jsd(student, teacher, temperature=t).mean(),
        "TRL, beta 0.5": lambda t: other(student, teacher, labels=labels, beta=0.5, temperature=t),
    }
    for name, way in ways.items():
        sizes = [float(torch.autograd.grad(way(t), student)[0].norm()) for t in TEMPERATURES]
        shown = ", ".join(f"{size:.5f}" for size in sizes)
        print(f"{name:14} norm of the gradient at T = 1, 2, 4, 8: {shown}")


def main() -> int:
    torch.set_num_threads(1)
    other = theirs()
    if other is None:
        return 0
    worst = compare(other)
    flatness(other)
    if worst > LARGEST:
        print(f"they differ by {worst:.1e} in float64, more than {LARGEST}")
    return int(worst > LARGEST)


if __name__ == "__main__":
    sys.exit(main())
