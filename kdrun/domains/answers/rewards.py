"""Rewards of answers of agents (LiteGUI, arXiv 2605.07505, stage 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kdrun.domains.answers.judge import Judge
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
    judge: str | None = None,
    judge_model: str = "",
    judge_key: str | None = None,
) -> list[float]:
    """A weighted sum of: whether the action succeeds when it is carried out (solutions=all), or is the one of the data (solutions=one);
    how near the subtasks are to what the task asks for, on five marks; whether the answer is JSON of Reason, Subtasks and Action.

    execution, subtasks, format: their weights, each 0 or more. The paper does not say its weights; these are ours.
    judge: address of a server whose model gives the marks (judge.Judge), judge_model: its name there, judge_key: a bearer token, as
    ${oc.env:NAME} in no record; without: by rule, from words that the subtasks and the task have in common.
    """
    if solutions not in ("all", "one"):
        raise UserError(f"reward.solutions={solutions}: all or one")
    for name, weight in (("execution", execution), ("subtasks", subtasks), ("format", format)):
        if not 0 <= weight < math.inf:
            raise UserError(f"reward.{name}={weight}: a weight, 0 or more")
    if any(screen is None for screen in samples):
        raise UserError(
            "reward=gui: the data have no screens on which an action could be carried out", "data=forms has them"
        )
    answers = [answer_of(text) for text in texts]
    marks = [
        0.0 if one is None else levels(plan_overlap(one["Subtasks"], s.about))
        for one, s in zip(answers, samples, strict=True)
    ]
    if judge is not None and subtasks:
        told = [place for place, answer in enumerate(answers) if answer is not None]
        given = Judge(judge, judge_model, judge_key)([samples[n] for n in told], [answers[n]["Subtasks"] for n in told])
        marks = [dict(zip(told, given, strict=True)).get(place, 0.0) for place in range(len(answers))]
    found = []
    for text, reference, screen, answer, plan in zip(texts, references, samples, answers, marks, strict=True):
        done = screen.right(text) if solutions == "all" else action_of(text) == action_of(reference) is not None
        found.append(execution * done + subtasks * plan + format * (answer is not None))
    return found
