"""Rewards of answers of agents (LiteGUI, arXiv 2605.07505, stage 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdrun.domains.answers.screen import action_of, answer_of, levels, plan_overlap
from kdrun.problems import UserError

REWARDS = ("gui",)


def gui(
    texts: Sequence[str],
    references: Sequence[str],
    samples: Sequence[Any],
    *,
    execution: float = 0.6,
    subtasks: float = 0.3,
    format: float = 0.1,
    solutions: str = "all",
) -> list[float]:
    """A weighted sum of: whether the action succeeds when it is carried out (solutions=all), or is the one of the data (solutions=one);
    how near the subtasks are to what the task asks for, by rule, on five marks; whether the answer is JSON of Reason, Subtasks and Action.

    execution, subtasks, format: their weights, each 0 or more. The paper does not say its weights; these are ours.
    """
    if solutions not in ("all", "one"):
        raise UserError(f"reward.solutions={solutions}: all or one")
    if any(screen is None for screen in samples):
        raise UserError(
            "reward=gui: the data have no screens on which an action could be carried out", "data=forms has them"
        )
    found = []
    for text, reference, screen in zip(texts, references, samples, strict=True):
        answer = answer_of(text)
        done = screen.right(text) if solutions == "all" else action_of(text) == action_of(reference) is not None
        plan = levels(plan_overlap(answer["Subtasks"], screen.about)) if answer else 0.0
        found.append(execution * done + subtasks * plan + format * (answer is not None))
    return found
