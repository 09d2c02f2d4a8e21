"""Thinking with one language model and answering with another (elastic budget control of Star Elastic, arXiv 2605.07182): steps are
written up to a number of tokens, then the other model reads question and steps and writes the answer. It keeps no keys and values of the
first: what it reads it computes itself."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdrun.domains.language import written
from kdrun.domains.language.rows import PIECES
from kdrun.domains.language.written import Prompt
from kdrun.problems import UserError

ANSWER_TOKENS = 8
"""Tokens of an answer at most."""


@dataclass(frozen=True)
class Setting:
    """Who writes the steps, in how many tokens at most (0: there are none), and who the answer."""

    thinks: str
    answers: str
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """right: share of questions answered right; written: mean tokens of the steps; seconds: median of a question by itself, both parts."""

    right: float
    written: float
    seconds: float


class Thinking:
    """Questions of the test split, and the mark that stands between steps and answer.

    task   of the data; what the source knows of a question has `mark`, a text, and `right(text)`
    count  questions at most
    Raises UserError where the data have no steps before their answers.
    """

    def __init__(self, task: Any, count: int) -> None:
        self.task, tokenizer, source = task, task.module.tokenizer, task.module.source
        samples = task.module.samples("test")
        self.questions = written.prompts(samples, count, task.spec.max_length, tokenizer.ends)
        self.known = [source.told(question.number // PIECES) for question in self.questions]
        mark = getattr(self.known[0], "mark", None) if self.known else None
        if mark is None:
            raise UserError(
                f"{task.spec.name}: nothing stands between the steps and the answer of its questions",
                "data=arithmetic_chains has both",
            )
        texts = tokenizer.made.batch_decode([[number] for number in range(task.spec.vocabulary)])
        self.marks = frozenset(number for number, text in enumerate(texts) if mark in text)
        used = Counter(token for question in self.questions for token in question.reference if token in self.marks)
        self.mark = used.most_common(1)[0][0]

    def steps(self, network: nn.Module, questions: Sequence[Prompt], tokens: int) -> list[list[int]]:
        """What a network writes before the mark, in so many tokens at most."""
        if not tokens:
            return [[] for _ in questions]
        return self._written(network, [question.ids for question in questions], tokens, self.marks)

    def answers(
        self, network: nn.Module, questions: Sequence[Prompt], steps: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """What a network writes behind question, steps and mark: the steps with the mark and the answer."""
        begun = [[*steps_of, self.mark] for steps_of in steps]
        read = [[*question.ids, *ids] for question, ids in zip(questions, begun, strict=True)]
        return [[*ids, *answer] for ids, answer in zip(begun, self._written(network, read, ANSWER_TOKENS), strict=True)]

    def measured(self, networks: Mapping[str, nn.Module], tokens: Sequence[int], timed: int) -> dict[Setting, Outcome]:
        """Every pair of networks at every number of tokens.

        timed: questions by which the time is measured, one by one, all settings in turns for each of them.
        """
        most = {name: self.steps(network, self.questions, max(tokens)) for name, network in networks.items()}
        right, length = {}, {}
        settings = [Setting(one, other, count) for one in networks for other in networks for count in sorted(tokens)]
        settings = [
            each for each in settings if each.tokens or each.thinks == each.answers
        ]  # without steps nobody thinks
        for each in settings:
            steps = [ids[: each.tokens] for ids in most[each.thinks]]
            texts = self._read(self.answers(networks[each.answers], self.questions, steps))
            judged = [known.right(text) for known, text in zip(self.known, texts, strict=True)]
            right[each], length[each] = statistics.fmean(judged), statistics.fmean(map(len, steps))
        seconds: dict[Setting, list[float]] = {each: [] for each in settings}
        for number, question in enumerate([self.questions[0], *self.questions[:timed]]):
            for each in settings:
                begun = time.perf_counter()
                steps = self.steps(networks[each.thinks], [question], each.tokens)
                self.answers(networks[each.answers], [question], steps)
                if number:  # the first time is not counted
                    seconds[each].append(time.perf_counter() - begun)
        return {each: Outcome(right[each], length[each], statistics.median(seconds[each])) for each in settings}

    def _written(
        self, network: nn.Module, begun: list[list[int]], most: int, more: frozenset[int] = frozenset()
    ) -> list[list[int]]:
        generator = torch.Generator(next(network.parameters()).device)
        ends = self.task.module.tokenizer.ends | more
        return self.task.write(network, begun, most, 0.0, generator, ends=ends)

    def _read(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return self.task.module.tokenizer.made.batch_decode(rows, skip_special_tokens=True)
