"""Batches of one tokenizer as a teacher with another one reads them, and what it predicts at the positions of the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from kdrun.data.host import on_host
from kdrun.data.module import BatchView
from kdrun.data.ragged import Ragged
from kdrun.domains.language import alignment
from kdrun.domains.language.loader import LanguageSamples
from kdrun.domains.language.source import Document
from kdrun.domains.language.tokens import LanguageTokenizer, Turns
from kdrun.domains.task import Prediction
from kdrun.problems import UserError

MOST_KEPT = 20_000
"""Pieces of documents whose tokens of the teacher are kept, for epochs to come."""
Match = tuple[list[int], np.ndarray]
"""(tokens of the teacher, spans int64 [n, 4]: first token of the student in the piece, tokens, first token of the teacher, tokens)."""


class SameTokens(BatchView):
    """Of a teacher with the tokenizer of its student: it reads the rows of the student."""

    def seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


class Retokenized(BatchView):
    """Each document of a row is cut again by the teacher's tokenizer, as one document of a row of the teacher; of chats, by the
    teacher's own chat template.

    module, learned: language data modules with the tokenizers of the teacher and of the student, of the same documents.
    What is told of a batch: logits [B, L, V + more] in the student's columns (see aligned_kd; columns behind those: all other tokens of
    the teacher), and the features spans, coincide and span_log_probs (of spans that do not coincide), each [B, L]. A span is compared
    where all its tokens are predicted.
    """

    aligned = True

    def __init__(self, module: Any, learned: Any):
        super().__init__(module)
        self.samples, self.learned = learned.samples("train"), learned
        self.ours, self.theirs = learned.tokenizer, module.tokenizer
        self.both = both = alignment.columns(alignment.contents(self.ours), alignment.contents(self.theirs))
        others = np.setdiff1d(np.arange(self.theirs.size), both)
        self.order = torch.from_numpy(np.concatenate([np.maximum(both, 0), others]))
        self.lacking = torch.from_numpy(np.concatenate([both < 0, np.zeros(len(others), bool)]))
        self.places = {number: place for place, number in enumerate(module.source.ids.tolist())}
        self.matches: dict[tuple[int, int], Match] = {}
        self.bytes_of = lru_cache(maxsize=16)(lambda number: self._document(number).encode())
        if self.samples.origins is None:
            raise UserError(
                "rows of generated texts cannot be cut again for a teacher with another tokenizer (teacher.data)"
            )

    def seen(self, batch: dict[str, Any]) -> dict[str, Any]:
        """See BatchView; "aligned": what `told` needs, by name."""
        rows = self.learned.trained(on_host(batch, "ids")).numpy()
        pieces = [self._pieces(row) for row in rows.tolist()]
        self._match([piece for row in pieces for piece in row])
        shape = batch["mask"].shape
        spans, at = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        coincide, owners, tokens, parts = np.zeros(shape, bool), [], [], []
        for row, row_pieces in enumerate(pieces):
            tokens.append([])
            parts.append([])
            for number, (key, offset, ids, _) in enumerate(row_pieces, 1):
                theirs, found = self.matches[key]
                first, count, other, more = found.T
                here, there = offset + first - 1, len(tokens[-1]) + other - 1
                spans[row, here], at[row, here] = count, there
                ours = np.array(ids)[first]
                coincide[row, here] = (count == 1) & (more == 1) & (self.both[ours] == np.array(theirs)[other])
                merged = ~coincide[row, here]
                owners += [
                    (row, place, owner)
                    for begin, length, owner in zip(there[merged], more[merged], here[merged], strict=True)
                    for place in range(begin, begin + length)
                ]
                tokens[-1] += theirs
                parts[-1] += [number] * len(theirs)
        flat = Ragged.of(tokens)
        numbered = None if self.samples.parts is None else Ragged.of(parts)
        nothing, ids = np.zeros(len(flat.flat), np.int32), on_host(batch, "ids").numpy()
        made = LanguageSamples(ids, flat, nothing, numbered, self.theirs.pad, pictures=self.samples.pictures).batch(
            np.arange(len(rows))
        )
        aligned = {
            name: torch.from_numpy(value) for name, value in (("spans", spans), ("at", at), ("coincide", coincide))
        }
        owned = torch.tensor(owners, dtype=torch.int64).reshape(-1, 3)
        return {**batch, "inputs": made["inputs"], "aligned": {**aligned, "owned": owned, "targets": made["targets"]}}

    def told(self, prediction: Prediction, seen: dict[str, Any]) -> Prediction:
        logits, aligned = prediction.dense(), seen["aligned"]
        row, place, owner = aligned["owned"].unbind(1)
        chosen = logits[row, place].float()
        logs = torch.log_softmax(chosen, -1).gather(1, aligned["targets"][row, place].unsqueeze(1)).squeeze(1)
        span_log_probs = logs.new_zeros(aligned["spans"].shape).index_put_((row, owner), logs, accumulate=True)
        rows = torch.arange(len(logits), device=logits.device).unsqueeze(1)
        order, lacking = (each.to(logits.device) for each in (self.order, self.lacking))
        found = logits[rows[..., None], aligned["at"][..., None], order].masked_fill_(lacking, -torch.inf)
        features = {"spans": aligned["spans"], "coincide": aligned["coincide"], "span_log_probs": span_log_probs}
        return replace(prediction, logits=found, hidden=None, head=None, features=features)

    def _document(self, number: int) -> Document:
        return self.module.source.documents[self.places[number]]

    def _pieces(self, row: int) -> list[tuple[tuple[int, int], int, list[int], list[int]]]:
        """((document, bytes of it before), first token in the row, tokens, their bytes) of each piece of a training row."""
        samples = self.samples
        here = slice(*samples.tokens.starts[row : row + 2])
        ids, sizes = samples.tokens.flat[here], samples.bytes.flat[here]
        numbers = np.ones(len(ids)) if samples.parts is None else samples.parts.flat[here]
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(ids)]
        return [
            (key, begin, ids[begin:end].tolist(), sizes[begin:end].tolist())
            for key, begin, end in zip(samples.origins.of(row), edges[:-1], edges[1:], strict=True)
        ]

    def _match(self, pieces: Sequence[tuple[tuple[int, int], int, list[int], list[int]]]) -> None:
        """Fills `matches` for these pieces."""
        if len(self.matches) > MOST_KEPT:
            self.matches.clear()
        missing = {key: (ids, sizes) for key, _, ids, sizes in pieces if key not in self.matches}
        most = self.module.spec.max_length
        if self.learned.spec.chats:
            for key, (_, sizes) in missing.items():
                theirs, found = answers_of(self.ours, self.theirs, self._document(key[0]))
                self.matches[key] = kept(theirs, found, sizes, most)
            return
        texts = []
        for (number, begin), (_, sizes) in missing.items():
            size = sum(size for size in sizes if size > 0)
            texts.append(self.bytes_of(number)[begin : begin + size].decode(errors="ignore"))
        encoded = self.theirs.encode(texts) if texts else []
        for (key, (ids, sizes)), (theirs, more) in zip(missing.items(), encoded, strict=True):
            ours = sizes[1:]
            if ended := ids[-1] == self.ours.eos:
                ours, theirs, more = [*ours[:-1], 1], [*theirs, self.theirs.eos], [*more, 1]
            found = alignment.spans(ours, more)
            if ours[0] == 0 and not (ended and len(ours) == 1):  # it begins inside of a character
                found = found[1:]
            shifted = [(first + 1, count, other + 1, others) for first, count, other, others in found]
            self.matches[key] = kept([self.theirs.start, *theirs], shifted, sizes, most)


def kept(theirs: list[int], found: Sequence[tuple[int, int, int, int]], sizes: Sequence[int], most: int) -> Match:
    """At most `most` tokens of the teacher, and of the spans those that are in them and wholly of tokens that the student predicts
    (sizes: see rows.Piece)."""
    within = [
        (first, count, other, more)
        for first, count, other, more in found
        if first > 0 < other
        and other + more <= most
        and first + count <= len(sizes)
        and min(sizes[first : first + count]) >= 0
    ]
    return theirs[:most], np.array(within, np.int64).reshape(-1, 4)


def answers_of(
    ours: LanguageTokenizer, theirs: LanguageTokenizer, chat: Document
) -> tuple[list[int], list[tuple[int, int, int, int]]]:
    """(tokens of a chat by the second tokenizer, spans of the answers in it).

    Compared is what both templates write alike of an answer, from its first letter; what they then write otherwise, the end of the
    answer, is one piece more where all of the answer's own text was alike.
    """
    left, right, found = ours.turns(chat), theirs.turns(chat), []
    said = [content.strip() for role, content in chat if role == "assistant"]
    for number, content in enumerate(said):
        begins, texts = [], []
        for side in (left, right):
            begin, end = side.spans[number]
            text = side.text[begin:end]
            begins.append(begin + len(text) - len(text.lstrip()))
            texts.append(text.lstrip())
        shared = next((place for place, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
        alike = texts[0][:shared]
        ended = len(content) <= len(alike)
        sizes = [
            _sizes(side, number, begin, alike, 1 if ended else 1 + place)
            for place, (side, begin) in enumerate(zip((left, right), begins, strict=True))
        ]
        starts = [side.answers[number][:1] for side in (left, right)]
        if all(starts):
            found += [
                (starts[0][0] + first, count, starts[1][0] + other, more)
                for first, count, other, more in alignment.spans(*sizes)
            ]
    return right.ids, found


def _sizes(turns: Turns, number: int, begin: int, alike: str, end: int) -> list[int]:
    """Bytes that each token of an answer adds to the text `alike` from place `begin` on; of the first token that ends behind it, `end`
    more, and none of those after it."""
    ends = [0, *accumulate(len(character.encode()) for character in alike)]
    reached, sizes = 0, []
    for place in turns.answers[number]:
        until = turns.offsets[place][1] - begin
        upto = ends[-1] + end if until > len(alike) else max(ends[max(until, 0)], reached)
        sizes.append(upto - reached)
        reached = upto
    return sizes
