"""From documents to rows of tokens: pieces of texts, chats, and several of them in one row.

However many there are, a few numbers for each piece are in memory; tokens are too, unless there is a folder to put them into."""

from __future__ import annotations

import bisect
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.ragged import Ragged
from kdrun.domains.language.loader import LanguageSamples, Origins
from kdrun.domains.language.source import Document, written
from kdrun.domains.language.tokens import LanguageTokenizer
from kdrun.files import new_array

PIECES = 1 << 16
"""Pieces of one document that ids tell apart."""
BLOCK, CHARACTERS = 4_000, 1 << 20
"""Texts that are encoded at a time, and about how many characters."""
NOT_PREDICTED = -1
COUNTED = (
    "texts in several pieces",
    "chats cut",
    "chats without an answer",
    "chats that say special tokens, read as such",
)
"""What is counted of documents that are cut, in the order in which it is told."""
AT_ONCE = 1 << 20
"""About how many tokens are moved at a time."""


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
    numbers: Iterable[int], documents: Iterable[Document], tokenizer: LanguageTokenizer, most: int
) -> tuple[Iterator[Piece], Counter[str]]:
    """(pieces of at most `most` tokens in the order of their documents, what of COUNTED was cut or left out of those that were asked for).

    A text becomes start, tokens, end; a longer one goes on in a further piece, which begins with the start token as well. Of a chat the
    tokens behind `most` are cut; one of which no answer is left is left out.
    """
    counts: Counter[str] = Counter()

    def found() -> Iterator[Piece]:
        for block in _blocks(zip(numbers, documents, strict=True)):
            if isinstance(block[0][1], str):
                encoded = tokenizer.encode([text for _, text in block])
                for (number, _), (ids, sizes) in zip(block, encoded, strict=True):
                    made = _text(number, [*ids, tokenizer.eos], [*sizes, 0], tokenizer.start, most)
                    counts[COUNTED[0]] += len(made) > 1
                    yield from made
                continue
            for number, chat in block:
                ids, sizes, answers = tokenizer.chat(chat)
                counted = [size if answer else NOT_PREDICTED for size, answer in zip(sizes, answers, strict=True)]
                counted[:1] = [NOT_PREDICTED]
                counts[COUNTED[1]] += len(ids) > most
                counts[COUNTED[3]] += any(token in content for token in tokenizer.special for _, content in chat)
                if max(counted[:most], default=NOT_PREDICTED) > NOT_PREDICTED:
                    yield Piece.of(number * PIECES, ids[:most], counted[:most])
                else:
                    counts[COUNTED[2]] += 1

    return found(), counts


def _blocks(pairs: Iterable[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """At most BLOCK of these (number, document), of about CHARACTERS."""
    block, size = [], 0
    for pair in pairs:
        block.append(pair)
        size += len(written(pair[1]))
        if len(block) == BLOCK or size >= CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


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


def separate(found: Iterable[Piece], pad: int, folder: Path | None = None) -> LanguageSamples:
    """A row for each piece. folder: where tokens are put, which may be more than memory holds (see `packed`)."""
    with _Spool(folder) as spool:
        spool.fill(found)
        return spool.samples(np.arange(len(spool.numbers)), pad, numbered=False)


def packed(found: Iterable[Piece], most: int, pad: int, folder: Path | None = None) -> LanguageSamples:
    """Rows of at most `most` tokens that hold several pieces (the longest first, each in the fullest row that has room for it).
    A row has the number of its first piece.

    folder: an empty one, in which tokens are arrays that are mapped: tokens.npy, bytes.npy, parts.npy; None: they are in memory.
    """
    with _Spool(folder) as spool:
        spool.fill(found)
        return spool.samples(_filled(np.frombuffer(spool.lengths, np.int64), most), pad, numbered=True)


def _filled(lengths: np.ndarray, most: int) -> np.ndarray:
    """int64 [n]: the row that each piece comes into. lengths: int64 [n]."""
    row_of = np.zeros(len(lengths), np.int64)
    rooms: list[int] = []  # numbers of free tokens that some row has, ascending
    rows: dict[int, list[int]] = {}  # free tokens -> these rows
    opened = 0
    for place in np.argsort(-lengths, kind="stable"):
        length = int(lengths[place])
        at = bisect.bisect_left(rooms, max(length, 1))
        if at == len(rooms):
            row, room, opened = opened, most, opened + 1
        else:
            room = rooms[at]
            row = rows[room].pop()
            if not rows[room]:
                del rows[room], rooms[at]
        row_of[place] = row
        left = room - length
        if left not in rows:
            rows[left] = []
            bisect.insort(rooms, left)
        rows[left].append(row)
    return row_of


class _Spool:
    """The pieces of a split one after the other: tokens in two files of a folder, or in memory, and numbers of each."""

    FILES = ("tokens", "bytes")

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.numbers, self.begins, self.lengths = array("q"), array("q"), array("q")
        self._columns: list[Any] = [array("i"), array("i")]
        if folder is not None:
            self._columns = [open(folder / f".{name}", "wb") for name in self.FILES]  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *raised: Any) -> None:
        for name, column in zip(self.FILES, self._columns, strict=True):
            if self.folder is not None:
                column.close()
                (self.folder / f".{name}").unlink(missing_ok=True)

    def fill(self, found: Iterable[Piece]) -> None:
        for piece in found:
            self.numbers.append(piece.number)
            self.begins.append(piece.begin)
            self.lengths.append(len(piece.ids))
            for column, values in zip(self._columns, (piece.ids, piece.bytes), strict=True):
                content = np.asarray(values, np.int32).tobytes()
                column.write(content) if self.folder is not None else column.frombytes(content)

    def samples(self, row_of: np.ndarray, pad: int, numbered: bool) -> LanguageSamples:
        """The rows, the pieces of each in their order. row_of: int64 [n], the row of each piece; numbered: rows say which token is of which."""
        numbers, begins, lengths = (
            np.frombuffer(column, np.int64) for column in (self.numbers, self.begins, self.lengths)
        )
        count = int(row_of.max(initial=-1)) + 1
        order = np.argsort(row_of, kind="stable")
        of_row = np.bincount(row_of, minlength=count)
        firsts = _starts(of_row)  # of each row among the pieces in order
        ends = _starts(lengths[order])
        starts = ends[firsts]
        tokens, sizes = (self._moved(place, order, lengths, ends) for place in range(2))
        parts = None
        if numbered:
            within = np.arange(len(order)) - np.repeat(firsts[:-1], of_row) + 1
            flat = self._array("parts", int(ends[-1]))
            for some in _some(ends):
                flat[ends[some.start] : ends[some.stop]] = np.repeat(within[some], lengths[order[some]])
            parts = Ragged(flat, starts)
        origins = Origins(firsts, numbers[order] // PIECES, begins[order])
        return LanguageSamples(numbers[order[firsts[:-1]]], Ragged(tokens, starts), sizes, parts, pad, origins)

    def _moved(self, place: int, order: np.ndarray, lengths: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """A column of all pieces in this order; ends: where each begins there, and the last one ends."""
        made, column = self._array(self.FILES[place], int(ends[-1])), self._columns[place]
        if not len(made):
            return made
        if self.folder is None:
            flat = np.frombuffer(column, np.int32)
        else:
            column.flush()
            flat = np.memmap(self.folder / f".{self.FILES[place]}", np.int32, "r")
        begins = _starts(lengths)
        for some in _some(ends):
            chosen = order[some]
            here = begins[chosen] - ends[some]
            made[ends[some.start] : ends[some.stop]] = flat[
                np.repeat(here, lengths[chosen]) + np.arange(ends[some.start], ends[some.stop])
            ]
        return made

    def _array(self, name: str, size: int) -> np.ndarray:
        if self.folder is None:
            return np.zeros(size, np.int32)
        return new_array(self.folder / f"{name}.npy", np.int32, (size,))


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _some(ends: np.ndarray) -> Iterator[slice]:
    """Slices of the pieces that end there, each of about AT_ONCE tokens."""
    first, count = 0, len(ends) - 1
    while first < count:
        last = max(int(np.searchsorted(ends, ends[first] + AT_ONCE)), first + 1)
        yield slice(first, min(last, count))
        first = min(last, count)
