"""Documents as a prompt and what follows it, and rows of tokens in which something else follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdrun.data.ragged import Ragged
from kdrun.domains.language.loader import LanguageSamples
from kdrun.domains.language.rows import NOT_PREDICTED


@dataclass(frozen=True)
class Prompt:
    """The beginning of a document. ids: its tokens; bytes: as of rows.Piece; room: number of tokens that follow in the document;
    follows: these; row: id of the row that it is of."""

    ids: list[int]
    bytes: list[int]
    room: int
    follows: tuple[int, ...] = ()
    row: int = 0


def prompts(samples: LanguageSamples, positions: np.ndarray, share: float, chats: bool) -> list[list[Prompt]]:
    """The prompts of all documents of these rows.

    Of a chat, all before the last answer, which is what follows. Of a text, `share` of its tokens: at least the first, and never all.
    """
    return [
        [_prompt(*each, share, chats, int(samples.ids[place])) for each in _documents(samples, place)]
        for place in positions.tolist()
    ]


def answered(
    samples: LanguageSamples,
    positions: np.ndarray,
    begun: Sequence[Sequence[Prompt]],
    written: Sequence[Sequence[list[int] | None]],
    learn_prompts: bool = False,
) -> LanguageSamples:
    """These rows with `written` (tokens) behind the prompts of their documents. A document for which that is None is left out, and so is a
    row without documents. What was written is predicted, and of prompts what was predicted before where learn_prompts says so."""
    ids, tokens, sizes, parts = [], [], [], []
    for place, of_row, answers in zip(positions.tolist(), begun, written, strict=True):
        row = [pair for pair in zip(of_row, answers, strict=True) if pair[1] is not None]
        if not row:
            continue
        ids.append(int(samples.ids[place]))
        tokens.append([token for prompt, answer in row for token in (*prompt.ids, *answer)])
        before = [prompt.bytes if learn_prompts else [NOT_PREDICTED] * len(prompt.ids) for prompt, _ in row]
        sizes.append(
            [n for counted, (_, answer) in zip(before, row, strict=True) for n in (*counted, *[0] * len(answer))]
        )
        parts.append([n for n, (prompt, answer) in enumerate(row, 1) for _ in (*prompt.ids, *answer)])
    numbered = None if samples.parts is None else Ragged.of(parts)
    made = Ragged.of(tokens), Ragged.of(sizes).flat, numbered
    return LanguageSamples(np.array(ids, np.int64), *made, samples.pad, pictures=samples.pictures)


def _documents(samples: LanguageSamples, place: int) -> Iterator[tuple[list[int], list[int]]]:
    """(tokens, their bytes) of each document of a row."""
    span = slice(*samples.tokens.starts[place : place + 2])
    ids, sizes = samples.tokens.flat[span], samples.bytes.flat[span]
    parts = np.ones(len(ids)) if samples.parts is None else samples.parts.flat[span]
    for cut in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(parts)) + 1):
        yield ids[cut].tolist(), sizes[cut].tolist()


def _prompt(ids: list[int], sizes: list[int], share: float, chats: bool, row: int) -> Prompt:
    end, begin = len(ids), min(max(round(share * len(ids)), 1), len(ids) - 1)
    if chats:
        end = max(place for place, size in enumerate(sizes) if size != NOT_PREDICTED) + 1
        begin = max((place for place in range(end) if sizes[place] == NOT_PREDICTED), default=-1) + 1
    return Prompt(ids[:begin], sizes[:begin], end - begin, tuple(ids[begin:end]), row)
