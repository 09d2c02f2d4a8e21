"""Plans of agents judged by a served model (LiteGUI, arXiv 2605.07505, stage 2: the reward of subtasks)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from kdrun.domains.answers.screen import MARKS, Screen
from kdrun.domains.language.endpoint import Endpoint
from kdrun.problems import UserError

IN_FLIGHT = 8
"""Requests at a time."""
ASKED = """You judge the plan of an agent that operates a screen. The screen, with its task in the first line:

{screen}

The plan of the agent:

{plan}

How well does the plan do what the task asks for? Answer with one number and nothing else: 0.0 (not at all), 0.3, 0.5, 0.8 or 1.0 (fully)."""


class Judge:
    """judge(screens, plans) -> a mark from MARKS for each, by a model on a server that has /v1/chat/completions (vLLM, SGLang, llama.cpp,
    Ollama ...). A plan is asked about once in a call, with the likeliest answer.

    url: of the server; model: the name that it is served under; key: sent as a bearer token.
    Raises UserError where the server does not answer, or answers with no such mark.
    """

    def __init__(self, url: str, model: str, key: str | None = None):
        if not model:
            raise UserError(
                "reward.judge_model is the name under which the judge is served",
                f"as a server says it: {url}/v1/models",
            )
        self.endpoint = Endpoint(url, model, key=key, where="reward.judge")

    def __call__(self, screens: Sequence[Screen], plans: Sequence[Sequence[object]]) -> list[float]:
        asked = [
            ASKED.format(screen=screen.text, plan="\n".join(f"- {step}" for step in plan) or "(no step)")
            for screen, plan in zip(screens, plans, strict=True)
        ]
        different = list(dict.fromkeys(asked))
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            marks = dict(zip(different, pool.map(self._mark, different), strict=True))
        return [marks[one] for one in asked]

    def _mark(self, asked: str) -> float:
        said = self.endpoint.answer([{"role": "user", "content": asked}], most=16)
        number = re.search(r"\d+(\.\d+)?", said)
        if number is None or float(number[0]) not in MARKS:
            raise UserError(
                f"reward.judge: {self.endpoint.model} answers {said[:60]!r}, not one of {', '.join(map(str, MARKS))}",
                "a larger instruct model, or without a judge: reward.judge=null compares words by rule",
            )
        return float(number[0])
