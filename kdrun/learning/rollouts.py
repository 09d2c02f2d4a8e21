"""Batches of the student's own samples in place of those of the data (strategy=on_policy)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kdrun.data.host import HOST, moved
from kdrun.learning import seeds
from kdrun.learning.policy import PolicyRollouts
from kdrun.networks.modes import evaluating

SEMANTICS = 2


def rollouts_of(task: Any, seed: int, options: dict[str, Any], **ranks: Any) -> Rollouts | PolicyRollouts:
    """What makes the batches of a stage that says this of them (lab.stages.fit.Fit.rollout). ranks: `rank` and `summed`."""
    kind = PolicyRollouts if "reward" in options else Rollouts
    return kind(task, seed, **ranks, **options)


class Rollouts:
    """rollouts(student, batch, teacher) -> the batch, or in its place what the student writes behind the prompts of its samples.

    Generalised knowledge distillation (Agarwal et al. 2024, arXiv 2306.13649), algorithm 1: each step draws whether its batch is of the
    data or the student's own. What is drawn and written is a function of (weights, seed, step, rank) and the batch, so that a run that
    goes on needs no state of a generator.

    share        probability that a batch is the student's own
    raised_by    what is added to it after each validation whose loss is not below that of the one before (DistiLLM, arXiv 2402.03898)
    teacher_mix  tokens are drawn from a mixture of both networks, of which the teacher has this share (MiniLLM, arXiv 2306.08543)
    options      of Task.own_samples: how prompts are cut and tokens drawn
    summed       of a number on this rank: the sum over all ranks
    counts       batches that were the student's own, their samples, and tokens that it wrote, on this rank
    """

    group = 1
    """Texts in the place of each sample of a batch."""

    @property
    def with_teacher(self) -> bool:
        """Whether a teacher goes through each text while it is written."""
        return bool(self.teacher_mix)

    def __init__(
        self,
        task: Any,
        seed: int,
        share: float,
        rank: int = 0,
        summed: Callable[[int], int] = lambda number: number,
        raised_by: float = 0.0,
        teacher_mix: float = 0.0,
        **options: Any,
    ):
        self.task, self.share, self.options = task, share, options
        self.raised_by, self.teacher_mix, self.before = raised_by, teacher_mix, math.inf
        self.seed, self.rank, self.summed = seed, rank, summed
        self.counts = {"batches": 0, "samples": 0, "tokens": 0}

    def judged(self, loss: float) -> None:
        """Told of each validation loss in training."""
        if self.raised_by and not loss < self.before:
            self.share = min(self.share + self.raised_by, 1.0)
        self.before = loss

    def state(self) -> dict[str, Any]:
        """What it goes on from."""
        return {"share": self.share, "before": self.before, "counts": self.counts}

    def resume(self, state: dict[str, Any]) -> None:
        self.share, self.before, self.counts = (state[name] for name in ("share", "before", "counts"))

    def __call__(self, student: nn.Module, batch: dict[str, Any], teacher: Any = None) -> dict[str, Any]:
        step = batch["step"]
        if seeds.derive(self.seed, "own batch", step) >= self.share * 2**63:
            return batch
        device = batch["targets"].device
        generator = torch.Generator(device).manual_seed(seeds.derive(self.seed, "rollout", step, self.rank))
        options = dict(self.options)
        if self.teacher_mix and teacher is not None:
            options["beside"] = (network_of(teacher), self.teacher_mix)
        with evaluating(student), torch.no_grad():
            made = moved(self.task.own_samples(student, batch, generator, **options), device)
        torch.clear_autocast_cache()  # of weights without a gradient
        size = self.summed(made["size"])
        for name, number in (("batches", 1), ("samples", len(made["ids"])), ("tokens", made["size"])):
            self.counts[name] += number
        # No label says what should follow what the student wrote: terms of labels have no part in this batch.
        nothing = torch.zeros(len(made["ids"]), dtype=torch.bool, device=device)
        made |= {HOST: {}}  # what is known of the batch before is not true of this one
        return {**batch, **made, "size": size, "labelled": nothing, "sizes": {"mask": size, "labelled": 0}}

    def told(self) -> dict[str, float]:
        """Nothing for the log; see PolicyRollouts."""
        return {}


def network_of(teacher: Any) -> nn.Module:
    """The network that is behind a source of a teacher's outputs."""
    while not hasattr(teacher, "network"):
        teacher = teacher.live
    return teacher.network
