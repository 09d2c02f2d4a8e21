"""Soft-target losses of kdrun against those of TRL's GKDTrainer, and its policy losses against those of TRL's GRPOTrainer, on random
inputs: values, gradients, and what temperature does.

    python scripts/compare_losses.py

TRL is no part of kdrun's environment: an environment with both is made by `pip install trl==1.16.0 accelerate datasets`. Without it the
script says so and compares nothing. TRL's loss has no factor T^2; to compare with kdrun's it is multiplied by it here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from kdrun.learning.policy import advantages
from kdrun.objectives.grpo import grpo
from kdrun.objectives.jsd import jsd
from kdrun.objectives.kd import kd
from kdrun.objectives.kl_reverse import kl_reverse
from kdrun.objectives.policy_kl import policy_kl

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


def compare_policy() -> float:
    """Prints the largest relative differences of the loss of GRPO, a mean over texts or over tokens, with a divergence and without, and of
    its gradient, on texts of several lengths with ratios on either side of the clip. Returns the largest."""
    from trl import GRPOTrainer

    draw = torch.Generator().manual_seed(0)
    prompts, groups, size, length, tokens = 2, 6, 4, 9, 50
    texts, lengths = groups * size, torch.randint(1, length + 1, (groups * size,), generator=draw)
    student, reference = (torch.randn(texts, length, tokens, generator=draw, dtype=torch.float64) for _ in range(2))
    sampled = torch.randint(tokens, (texts, length), generator=draw)
    mask = torch.arange(length) < lengths[:, None]
    log_probs = [each.log_softmax(-1).gather(-1, sampled[..., None])[..., 0] for each in (student, reference)]
    old = log_probs[0] + 0.3 * torch.randn(texts, length, generator=draw, dtype=torch.float64)
    gained = advantages(torch.rand(groups, size, generator=draw, dtype=torch.float64)).flatten()
    student.requires_grad_()
    worst = 0.0
    for average, loss_type in (("samples", "grpo"), ("tokens", "bnpo")):
        for weight in (0.0, 0.04):
            trainer = _trainer(GRPOTrainer, student, sampled, loss_type, weight)
            inputs = {
                "prompt_ids": torch.zeros(texts, prompts, dtype=torch.int64),
                "prompt_mask": torch.ones(texts, prompts, dtype=torch.int64),
                "completion_ids": sampled,
                "completion_mask": mask.long(),
                "advantages": gained,
                "old_per_token_logps": old,
                "ref_per_token_logps": log_probs[1],
                "num_items_in_batch": mask.sum(),
            }
            there, steepness = with_gradient(GRPOTrainer._compute_loss(trainer, trainer.model, inputs), student)
            weights = torch.ones(texts, length, dtype=torch.float64)
            if average == "samples":
                weights = (mask.sum().double() / (texts * lengths))[:, None].expand(texts, length)
            values = grpo(student, sampled, gained[:, None].expand(texts, length), weights, old)
            values = values + weight * policy_kl(student, reference, sampled, weights)
            here, slope = with_gradient(values[mask].mean(), student)
            apart = abs(here - there) / abs(there), float((slope - steepness).abs().max() / steepness.abs().max())
            worst = max(worst, *apart)
            print(
                f"grpo, means over {average}, kl {weight}: difference of value, of gradient: {apart[0]:.1e}, {apart[1]:.1e}"
            )
    return worst


def _trainer(kind: type, logits: torch.Tensor, sampled: torch.Tensor, loss_type: str, beta: float) -> Any:
    """As much of a GRPOTrainer as its loss reads."""
    from collections import defaultdict

    def told(*_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor, None]:
        shares = logits.log_softmax(-1)
        return shares.gather(-1, sampled[..., None])[..., 0], torch.zeros_like(sampled, dtype=torch.float64), None

    trainer = MagicMock(spec=kind)
    settings = {
        **{"beta": beta, "loss_type": loss_type, "epsilon_low": 0.2, "epsilon_high": 0.2, "top_entropy_quantile": 1.0},
        **{"importance_sampling_level": "token", "off_policy_mask_threshold": None, "use_vllm": False},
        **{"aux_loss_enabled": False, "current_gradient_accumulation_steps": 1, "max_completion_length": 9},
        **{"_entropy_bonus_enabled": False, "entropy_coef": 0.0, "use_adaptive_entropy": False},
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_get_per_token_logps_and_entropies": told,
    }
    for name, value in settings.items():
        setattr(trainer, name, value)
    trainer.args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    trainer.model = SimpleNamespace(training=True)
    trainer.accelerator = SimpleNamespace(num_processes=1, gather=lambda value: value, reduce=lambda value, **_: value)
    return trainer


def main() -> int:
    torch.set_num_threads(1)
    other = theirs()
    if other is None:
        return 0
    worst = compare(other)
    flatness(other)
    worst = max(worst, compare_policy())
    if worst > LARGEST:
        print(f"they differ by {worst:.1e} in float64, more than {LARGEST}")
    return int(worst > LARGEST)


if __name__ == "__main__":
    sys.exit(main())
