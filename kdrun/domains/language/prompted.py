"""A teacher that reads other prompts (see templates.py) than its student, beside whose batches it is asked."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from kdrun.data.host import on_host
from kdrun.data.module import BatchView
from kdrun.data.ragged import Ragged
from kdrun.domains.language.loader import LanguageSamples
from kdrun.domains.language.prompts import Prompt
from kdrun.domains.task import Prediction
from kdrun.problems import UserError

MOST_KEPT = 20_000
"""Chats whose tokens under the other prompt are kept, for epochs to come."""


class OtherPrompt(BatchView):
    """A teacher reads the answers of a batch, whoever wrote them, behind the prompts of its own module. Answers are the same tokens, so
    what it predicts of a token of an answer belongs to that token, wherever it stands in its own rows.

    module, learned: language data modules with the same tokenizer, of the same chats; those of `module` have other prompts.
    """

    displaced = True

    def __init__(self, module: Any, learned: Any):
        super().__init__(module)
        self.samples, self.learned, self.tokenizer = learned.samples("train"), learned, module.tokenizer
        self.places = {number: place for place, number in enumerate(module.source.ids.tolist())}
        self.turns = lru_cache(maxsize=MOST_KEPT)(self._turns)
        if self.samples.origins is None:
            raise UserError("rows of generated texts are of no chat whose prompt a teacher could read (teacher.prompt)")

    def seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the teacher's rows as inputs, and "at" int64 [B, L]: the place in them of each place where a token of an answer
        is predicted (0 elsewhere)."""
        ids, numbers = (batch["inputs"][name].cpu().numpy() for name in ("input_ids", "attention_mask"))
        targets, counted = (batch[name].cpu().numpy() for name in ("targets", "mask"))
        at, rows, parts = np.zeros(counted.shape, np.int64), [], []
        for row, place in enumerate(self.learned.trained(on_host(batch, "ids")).tolist()):
            width = int((numbers[row] > 0).sum())
            tokens = [*ids[row, :1].tolist(), *targets[row, :width].tolist()]
            predicted = np.concatenate([[False], counted[row, :width]])
            of = np.append(numbers[row, :width].astype(int), int(numbers[row, width - 1]))
            rows.append([])
            parts.append([])
            for number, (first, end) in enumerate(_runs(of), 1):
                begun = len(rows[-1])
                answers = self._answers(place, number - 1, predicted[first:end], tokens[first:end])
                for begin, until, before in answers:
                    rows[-1] += before
                    at[row, first + begin - 1 : first + until - 1] = np.arange(until - begin) + len(rows[-1]) - 1
                    rows[-1] += tokens[first + begin : first + until]
                parts[-1] += [number] * (len(rows[-1]) - begun)
        made = self._batch(on_host(batch, "ids").numpy(), rows, parts)
        return {**batch, "inputs": made["inputs"], "at": torch.from_numpy(at)}

    def told(self, prediction: Prediction, seen: dict[str, Any]) -> Prediction:
        """What was predicted of tokens of answers, at their places in the rows of the student."""
        places = seen["at"]
        rows = torch.arange(len(places), device=places.device).unsqueeze(1)

        def moved(value: torch.Tensor | None) -> torch.Tensor | None:
            return None if value is None else value[rows, places]

        return replace(prediction, logits=moved(prediction.logits), hidden=moved(prediction.hidden), features={})

    def begun(self, positions: np.ndarray, prompts: list[list[Prompt]]) -> list[list[Prompt]]:
        """The teacher's own prompts in the place of those of training rows at these positions (see prompts.prompts)."""
        return [
            [self._begun(place, number, prompt) for number, prompt in enumerate(row)]
            for place, row in zip(positions.tolist(), prompts, strict=True)
        ]

    def _begun(self, place: int, number: int, prompt: Prompt) -> Prompt:
        answer = self._firsts(place, number).index(len(prompt.ids))
        ids, spans = self.turns(self.samples.origins.of(place)[number][0])
        return replace(prompt, ids=ids[: spans[answer][0]], bytes=[])

    def _answers(
        self, place: int, number: int, predicted: np.ndarray, tokens: list[int]
    ) -> list[tuple[int, int, list[int]]]:
        """(first token, end, the teacher's tokens before it and after the answer before) of each answer of a chat in a batch.

        place, number: of the training row, and of the chat in it; predicted: bool, of the chat's tokens in the batch, which are `tokens`.
        Of a chat without an answer (a rank has none to learn from) the teacher reads its prompt.
        """
        ids, spans = self.turns(*self._read(self.samples.origins.of(place)[number][0], predicted, tokens))
        firsts, found, reached = self._firsts(place, number), [], 0
        for begin, end in _runs(predicted):
            if predicted[begin]:
                first, last = spans[firsts.index(begin)]
                found.append((begin, end, ids[reached:first]))
                reached = last
        return found or [(1, 1, ids[: spans[-1][0]])]

    def _firsts(self, place: int, number: int) -> list[int]:
        """Places, in its chat, of the first tokens of the answers of a training row."""
        samples = self.samples
        here = slice(*samples.tokens.starts[place : place + 2])
        sizes = samples.bytes.flat[here]
        first, end = (0, len(sizes)) if samples.parts is None else _runs(samples.parts.flat[here])[number]
        predicted = sizes[first:end] >= 0
        return [begin for begin, _ in _runs(predicted) if predicted[begin]]

    def _read(self, number: int, predicted: np.ndarray, tokens: list[int]) -> tuple[Any, ...]:
        """The arguments of `_turns` for a chat: its id, and columns that follow from what is written as its last answer, where the source
        knows such (`known.matched(text) -> {column: text}`)."""
        known = self.learned.source.told(number)
        if not hasattr(known, "matched") or not predicted.any():
            return (number,)
        begin, end = next(run for run in reversed(_runs(predicted)) if predicted[run[0]])
        text = self.tokenizer.made.decode(tokens[begin:end], skip_special_tokens=True)
        return number, tuple(known.matched(text).items())

    def _turns(self, number: int, columns: tuple[tuple[str, str], ...] = ()) -> tuple[list[int], list[tuple[int, int]]]:
        """(tokens, first and end of each answer in them) of a chat of the teacher. columns: in place of those of its row."""
        place = self.places[number]
        chat = self.module.source.documents[place]
        if columns:
            source = self.learned.source
            fields = {**((source.fields or {}) and source.fields[place]), **dict(columns)}
            chat = self.module.templates.filled(
                source.documents[place], fields, f"the chat with {source.describe(place)}"
            )
        made = self.tokenizer.turns(chat)
        return made.ids, [(places[0], places[-1] + 1) for places in made.answers if places]

    def _batch(self, ids: np.ndarray, rows: list[list[int]], parts: list[list[int]]) -> dict[str, Any]:
        flat = Ragged.of(rows)
        numbered = None if self.samples.parts is None else Ragged.of(parts)
        nothing = np.zeros(len(flat.flat), np.int32)
        made = LanguageSamples(ids, flat, nothing, numbered, self.tokenizer.pad, pictures=self.samples.pictures)
        return made.batch(np.arange(len(rows)))


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """(first, end) of each stretch of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return list(pairwise(edges))
