"""From documents to rows of tokens: pieces of texts, chats, and several of them in one row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from kdrun.data.ragged import Ragged
from kdrun.domains.language.loader import LanguageSamples, Origins
from kdrun.domains.language.source import Document
from kdrun.domains.language.tokens import LanguageTokenizer

PIECES = 1 << 16
"""Pieces of one document that ids tell apart."""
BLOCK = 4_000
"""Texts that are encoded at a time."""
NOT_PREDICTED = -1


@dataclass(frozen=True)
class Piece:
    """A row of one document. ids: int32, its tokens; bytes: int32, of those that are predicted, NOT_PREDICTED of the others; begin: bytes
    of the document's text before it."""

    number: int
    ids: np.ndarray
    bytes: np.ndarray
    begin: int = 0

    @classmethod
    def of(cls, number: int, ids: Sequence[int], sizes: Sequence[int], begin: int = 0) -> Piece:
        return cls(number, np.array(ids, np.int32), np.array(sizes, np.int32), begin)


def pieces(
    numbers: Sequence[int], documents: Sequence[Document], tokenizer: LanguageTokenizer, most: int
) -> tuple[list[Piece], dict[str, int]]:
    """(pieces of at most `most` tokens in the order of their documents, what was cut or left out, counted).

    A text becomes start, tokens, end; a longer one goes on in a further piece, which begins with the start token as well. Of a chat the
    tokens behind `most` are cut; one of which no answer is left is left out.
    """
    found: list[Piece] = []
    what = (
        "texts in several pieces",
        "chats cut",
        "chats without an answer",
        "chats that say special tokens, read as such",
    )
    counts = dict.fromkeys(what, 0)
    for first in range(0, len(documents), BLOCK):
        block = documents[first : first + BLOCK]
        if block and isinstance(block[0], str):
            encoded = tokenizer.encode(block)
            for number, (ids, sizes) in zip(numbers[first : first + BLOCK], encoded, strict=True):
                made = _text(number, [*ids, tokenizer.eos], [*sizes, 0], tokenizer.start, most)
                counts["texts in several pieces"] += len(made) > 1
                found += made
            continue
        for number, chat in zip(numbers[first : first + BLOCK], block, strict=True):
            ids, sizes, answers = tokenizer.chat(chat)
            counted = [size if answer else NOT_PREDICTED for size, answer in zip(sizes, answers, strict=True)]
            counted[:1] = [NOT_PREDICTED]
            counts["chats cut"] += len(ids) > most
            counts[what[3]] += any(token in content for token in tokenizer.special for _, content in chat)
            if max(counted[:most], default=NOT_PREDICTED) > NOT_PREDICTED:
                found.append(Piece.of(number * PIECES, ids[:most], counted[:most]))
            else:
                counts["chats without an answer"] += 1
    return found, {name: count for name, count in counts.items() if count}


def _text(number: int, ids: list[int], sizes: list[int], start: int, most: int) -> list[Piece]:
    room, before = most - 1, [0, *accumulate(sizes)]
    return [
        Piece.of(
            number * PIECES + first // room,
            [start, *ids[first : first + room]],
            [NOT_PREDICTED, *sizes[first : first + room]],
            before[first],
        )
        for first in range(0, len(ids), room)
    ]


def separate(found: Iterable[Piece], pad: int) -> LanguageSamples:
    """A row for each piece."""
    rows = list(found)
    return _samples([[piece] for piece in rows], pad, None)


def packed(found: Sequence[Piece], most: int, pad: int) -> LanguageSamples:
    """Rows of at most `most` tokens that hold several pieces (the longest first, each in the fullest row that has room for it).
    A row has the number of its first piece."""
    rooms: list[list[int]] = [[] for _ in range(most + 1)]  # tokens that are free -> rows
    rows: list[list[int]] = []
    for place in sorted(range(len(found)), key=lambda place: -len(found[place].ids)):
        length = len(found[place].ids)
        room = next((room for room in range(length, most + 1) if rooms[room]), None)
        if room is None:
            row, room = len(rows), most
            rows.append([])
        else:
            row = rooms[room].pop()
        rows[row].append(place)
        rooms[room - length].append(row)
    chosen = [[found[place] for place in sorted(row)] for row in rows]
    numbers = [number for row in chosen for number in range(1, len(row) + 1)]
    lengths = [len(piece.ids) for row in chosen for piece in row]
    return _samples(chosen, pad, np.repeat(np.array(numbers, np.int32), lengths))


def _samples(rows: Sequence[Sequence[Piece]], pad: int, parts: np.ndarray | None) -> LanguageSamples:
    """The samples of these rows of pieces. parts: int32, of all tokens, which piece of its row each is of."""
    starts = np.cumsum([0, *(sum(len(piece.ids) for piece in row) for row in rows)], dtype=np.int64)
    none = [np.zeros(0, np.int32)]
    tokens, sizes = (
        np.concatenate([getattr(piece, name) for row in rows for piece in row] or none) for name in ("ids", "bytes")
    )
    ids = np.array([row[0].number for row in rows], np.int64)
    ragged = None if parts is None else Ragged(parts, starts)
    return LanguageSamples(ids, Ragged(tokens, starts), sizes, ragged, pad, _origins(rows))


def _origins(rows: Sequence[Sequence[Piece]]) -> Origins:
    starts = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    flat = [piece for row in rows for piece in row]
    columns = [np.array([getattr(piece, name) for piece in flat], np.int64) for name in ("number", "begin")]
    return Origins(starts, columns[0] // PIECES, columns[1])
