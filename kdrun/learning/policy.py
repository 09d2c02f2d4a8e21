"""Groups of texts that the student writes, with their rewards, in place of batches of the data (strategy=grpo)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdrun.data.host import moved
from kdrun.learning import seeds
from kdrun.learning.broken import broken
from kdrun.networks.modes import evaluating
from kdrun.problems import UserError, closest, listed
from kdrun.targets import build

SEMANTICS = 2
EPSILON = 1e-4
"""Beside the deviation of a group, as in TRL."""
GIVES = ("sampled_tokens", "advantages", "sample_weights", "sampled_log_probs", "rewarded")
"""Tensors that losses may ask for of batches made here."""
COLUMNS = ("prompts", "texts", "references", "samples")
"""What a reward function may ask for, beside columns of the rows that chats are from; lists of one length. prompts: what was read; texts:
what the student wrote; references: what stands there in the data; samples: what the source knows of each document (None: nothing)."""


class Reward:
    """The reward function of a config: called with the columns that it names, it gives one finite number for each text."""

    def __init__(self, node: Mapping[str, Any]):
        self.name = str(node["_target_"])
        self.function = build({**node, "_partial_": True}, "reward")
        parameters = inspect.signature(self.function).parameters.values()
        self.every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self.named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        if not self.every and "texts" not in [each.name for each in self.named]:
            raise UserError(
                f"reward {self.name}: it has no parameter 'texts', so it cannot see what the student wrote",
                f"a reward is a function of lists, by name: {listed(COLUMNS)}; it returns one number for each text",
            )

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> list[float]:
        """A number for each text. Raises UserError where it is not that or the function fails, and for a parameter that nothing is known for."""
        for parameter in self.named:
            if parameter.default is parameter.empty and parameter.name not in columns:
                raise UserError(
                    f"reward {self.name}: nothing to give as {parameter.name!r}{closest(parameter.name, columns)}",
                    f"there are lists: {listed(columns)}; an option has a default or a value (reward.{parameter.name}=VALUE)",
                )
        wanted = columns if self.every else [each.name for each in self.named if each.name in columns]
        try:
            values = self.function(**{name: list(columns[name]) for name in wanted})
        except UserError:
            raise
        except Exception as error:
            first = next(iter(columns["texts"]), "")
            raise broken(
                f"reward {self.name} fails on {len(columns['texts'])} texts, the first {first[:40]!r}", error
            ) from error
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            raise UserError(
                f"reward {self.name} returned {type(values).__name__}, expected one number for each text"
            ) from None
        if len(numbers) != len(columns["texts"]):
            raise UserError(f"reward {self.name} returned {len(numbers)} numbers for {len(columns['texts'])} texts")
        if bad := [number for number in numbers if not math.isfinite(number)]:
            raise UserError(f"reward {self.name} returned {bad[0]}; a reward is a finite number")
        return numbers


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """float64 [groups, size]: each reward less the mean of its group, over the deviation in the group (by size - 1, as in TRL) plus
    EPSILON. Exactly 0 in a group of equal rewards."""
    rewards = rewards.double()
    centred = rewards - rewards.mean(1, keepdim=True)
    equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    return torch.where(equal, 0.0, centred / (rewards.std(1, keepdim=True) + EPSILON))


class PolicyRollouts:
    """rollouts(student, batch) -> `group` texts that the student writes behind each prompt of the batch, one a row, with their advantages.

    Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300, algorithm 1). What is drawn is a function of (weights, seed, step,
    rank) and the batch. The batch that is made has "rewarded" (bool [B, L], tokens that were written; no position counts as such where
    all groups of the step have equal rewards) and "policy", {name: [B, L]} of GIVES.

    reward   see Reward
    group    texts for each prompt
    updates  steps of the optimizer on the same texts (the paper's mu); batches of the data in between are left out
    average  samples: each text counts the same (the paper); tokens: each token does (DAPO, arXiv 2503.14476)
    options  of Task.policy_samples: how prompts are cut and tokens drawn
    summed   of a number on this rank: the sum over all ranks
    counts   batches, texts, tokens, the sum of rewards, and groups of equal rewards, on this rank
    """

    with_teacher = False
    """See Rollouts."""

    def __init__(
        self,
        task: Any,
        seed: int,
        reward: Mapping[str, Any],
        rank: int = 0,
        summed: Callable[[int], int] = lambda number: number,
        updates: int = 1,
        average: str = "samples",
        **options: Any,
    ):
        self.task, self.reward, self.options = task, Reward(reward), options
        self.seed, self.rank, self.summed, self.group = seed, rank, summed, options["group"]
        self.updates, self.average = updates, average
        self.counts = {"batches": 0, "samples": 0, "tokens": 0, "reward": 0.0, "equal_groups": 0}
        self.kept: dict[str, Any] | None = None
        self._shown = (0, 0.0)

    def __call__(self, student: nn.Module, batch: dict[str, Any], teacher: Any = None) -> dict[str, Any]:
        step, device = batch["step"], batch["targets"].device
        if self.kept is None or step % self.updates == 0:
            generator = torch.Generator(device).manual_seed(seeds.derive(self.seed, "rollout", step, self.rank))
            with evaluating(student), torch.no_grad():
                self.kept = self._made(student, batch, generator, device)
            torch.clear_autocast_cache()  # of weights without a gradient
        return {**self.kept, **{name: batch[name] for name in ("step", "epoch") if name in batch}}

    def _made(self, student: nn.Module, batch: dict[str, Any], generator: torch.Generator, device) -> dict[str, Any]:
        made, columns = self.task.policy_samples(student, batch, generator, **self.options)
        made = moved(made, device)
        rewards = torch.tensor(self.reward(columns), dtype=torch.float64).reshape(-1, self.group)
        gained = advantages(rewards)
        lengths = made["mask"].sum(1)
        size, texts = self.summed(made["size"]), self.summed(int((lengths > 0).sum()))
        weights = torch.ones(len(lengths), device=device)
        if self.average == "samples":
            weights = size / (max(texts, 1) * lengths.clamp(min=1)).to(weights)
        shape = made["mask"].shape
        rewarded = size if self.summed(int(bool((gained != 0).any() and made["size"]))) else 0
        self._count(made, rewards, gained)
        policy = {
            "sampled_tokens": made["targets"],
            "advantages": gained.flatten().to(device, torch.float32)[:, None].expand(shape).contiguous(),
            "sample_weights": weights[:, None].expand(shape).contiguous(),
        }
        if self.updates > 1:
            logits = self.task.predict(student, made["inputs"]).dense().float()
            shares = torch.log_softmax(logits / self.options["temperature"], -1)
            policy["sampled_log_probs"] = shares.gather(-1, made["targets"][..., None])[..., 0]
        sizes = {"mask": size, "rewarded": rewarded}
        return {**made, "size": size, "sizes": sizes, "rewarded": made["mask"] & bool(rewarded), "policy": policy}

    def _count(self, made: dict[str, Any], rewards: torch.Tensor, gained: torch.Tensor) -> None:
        if not made["size"]:
            return
        equal = int((gained == 0).all(1).sum())
        found = {"batches": 1, "samples": rewards.numel(), "tokens": made["size"], "reward": float(rewards.sum())}
        for name, number in {**found, "equal_groups": equal}.items():
            self.counts[name] += number

    def judged(self, loss: float) -> None:
        """Told of each validation loss in training, which changes nothing here; see Rollouts."""

    def told(self) -> dict[str, float]:
        """{"reward": mean over the texts since the last call}; {} where there are none."""
        (texts, total), self._shown = self._shown, (self.counts["samples"], self.counts["reward"])
        texts, total = self._shown[0] - texts, self._shown[1] - total
        return {"reward": total / texts} if texts else {}

    def state(self) -> dict[str, Any]:
        """What a run goes on from: counts, and texts that further steps are on."""
        return {"counts": dict(self.counts), "kept": self.kept if self.updates > 1 else None, "shown": self._shown}

    def resume(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""
        self.counts, self.kept, self._shown = dict(state["counts"]), state["kept"], tuple(state["shown"])
