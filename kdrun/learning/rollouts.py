"""Batches of the student's own samples in place of those of the data (strategy=on_policy)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kdrun.data.host import HOST, moved
from kdrun.learning import seeds
from kdrun.learning.policy import PolicyRollouts
from kdrun.networks.modes import evaluating

SEMANTICS = 2


NEW = {
    "constant": lambda passed: 0.5,
    "increasing": lambda passed: passed,
    "decreasing": lambda passed: 1 - passed,
}
"""Schedule of a replay -> share of the student's own batches that are written anew, where this part of training has passed (0 to 1)."""


def rollouts_of(
    task: Any, seed: int, options: dict[str, Any], steps: int = 1, **ranks: Any
) -> Rollouts | PolicyRollouts:
    """What makes the batches of a stage that says this of them (lab.stages.fit.Fit.rollout). steps: of the stage; ranks: `rank` and
    `summed`."""
    if "reward" in options:
        return PolicyRollouts(task, seed, **ranks, **options)
    return Rollouts(task, seed, steps=steps, **ranks, **options)


class Rollouts:
    """rollouts(student, batch, teacher) -> the batch, or in its place what the student writes behind the prompts of its samples.

    Generalised knowledge distillation (Agarwal et al. 2024, arXiv 2306.13649), algorithm 1: each step draws whether its batch is of the
    data or the student's own. What is drawn and written is a function of (weights, seed, step, rank) and the batch, so that a run that
    goes on needs no state of a generator.

    share        probability that a batch is the student's own
    raised_by    what is added to it after each validation whose loss is not below that of the one before (DistiLLM, arXiv 2402.03898)
    teacher_mix  tokens are drawn from a mixture of both networks, of which the teacher has this share (MiniLLM, arXiv 2306.08543)
    updates      steps on the same texts, whose tokens then have the probabilities that they were drawn with beside them (MiniLLM's code);
                 batches of the data in between are left out
    replay       one of NEW, by which own batches are rows of a store of the last `capacity` that were written, once it is full, instead
                 (DistiLLM, section 3.2); "none": all are written anew
    steps        of the stage
    options      of Task.own_samples: how prompts are cut and tokens drawn
    summed       of a number on this rank: the sum over all ranks
    counts       batches that were the student's own, their samples, and tokens that it wrote, on this rank; "replayed": batches of these
                 that were from the store
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
        updates: int = 1,
        replay: str = "none",
        capacity: int = 1_000,
        steps: int = 1,
        **options: Any,
    ):
        self.task, self.share, self.options = task, share, options
        self.updates, self.replay, self.steps = updates, replay, steps
        self.kept: dict[str, Any] | None = None
        self.stored: deque[tuple[int, list[list[int]]]] = deque(maxlen=capacity)
        self.held = 0
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
        state = {"share": self.share, "before": self.before, "counts": self.counts}
        if self.updates > 1:
            state["kept"] = self.kept
        if self.replay != "none":
            state |= {"stored": list(self.stored), "held": self.held}
        return state

    def resume(self, state: dict[str, Any]) -> None:
        self.share, self.before, self.counts = (state[name] for name in ("share", "before", "counts"))
        self.kept, self.held = state.get("kept"), state.get("held", 0)
        self.stored.extend((place, answers) for place, answers in state.get("stored", ()))

    def __call__(self, student: nn.Module, batch: dict[str, Any], teacher: Any = None) -> dict[str, Any]:
        step = batch["step"]
        first = step - step % self.updates
        drawn = seeds.derive(self.seed, "own batch", first) / 2**63
        if step == first or self.kept is None:
            self.kept = self._made(student, batch, teacher, drawn) if drawn < self.share else None
        if self.kept is None:
            return batch
        return {**batch, **self.kept}

    def _made(self, student: nn.Module, batch: dict[str, Any], teacher: Any, drawn: float) -> dict[str, Any]:
        """The student's own batch in the place of this one. drawn: the number below `share` by which it is."""
        step, device = batch["step"], batch["targets"].device
        again = self.replay != "none" and drawn >= self.share * NEW[self.replay](step / self.steps)
        if again and self.held >= self.stored.maxlen:
            generator = torch.Generator().manual_seed(seeds.derive(self.seed, "replayed", step, self.rank))
            chosen = torch.randperm(len(self.stored), generator=generator)[: len(batch["ids"])].tolist()
            made = self.task.written_samples([self.stored[place] for place in chosen], self.options["prompt"])
            made = moved({**made, "mixture": 0.0}, device)
            self.counts["replayed"] = self.counts.get("replayed", 0) + 1
        else:
            made = self._written(student, batch, teacher, device)
        size = self.summed(made["size"])
        self.counts["batches"] += 1
        # No label says what should follow what the student wrote: terms of labels have no part in this batch.
        nothing = torch.zeros(len(made["ids"]), dtype=torch.bool, device=device)
        made |= {HOST: {}}  # what is known of the batch before is not true of this one
        return {**made, "size": size, "labelled": nothing, "sizes": {"mask": size, "labelled": 0}}

    def _written(self, student: nn.Module, batch: dict[str, Any], teacher: Any, device: Any) -> dict[str, Any]:
        """A batch that the student writes now."""
        generator = torch.Generator(device).manual_seed(seeds.derive(self.seed, "rollout", batch["step"], self.rank))
        options = dict(self.options)
        if self.teacher_mix and teacher is not None:
            options["beside"] = (network_of(teacher), self.teacher_mix)
        with evaluating(student), torch.no_grad():
            made = self.task.own_samples(student, batch, generator, **options)
            rows = made.pop("rows")
            made = moved(made, device)
            if self.updates > 1:
                logits = self.task.predict(student, made["inputs"]).dense().float()
                made["drawn_log_probs"] = logits.log_softmax(-1).gather(-1, made["targets"][..., None])[..., 0]
        torch.clear_autocast_cache()  # of weights without a gradient
        for name, number in (("samples", len(made["ids"])), ("tokens", made["size"])):
            self.counts[name] += number
        if self.replay != "none":
            self.stored.extend(rows)
            self.held = min(self.held + self.summed(len(rows)), self.stored.maxlen)
        return made

    def told(self) -> dict[str, float]:
        """Nothing for the log; see PolicyRollouts."""
        return {}


def network_of(teacher: Any) -> nn.Module:
    """The network that is behind a source of a teacher's outputs."""
    while not hasattr(teacher, "network"):
        teacher = teacher.live
    return teacher.network
