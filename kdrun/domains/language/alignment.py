"""Two tokenizers of one text: pieces of text where both have token ends, and tokens that both have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdrun.domains.language.tokens import LanguageTokenizer

_PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_LEVEL = {chr(number): number for number in _PLAIN} | {
    chr(256 + place): number for place, number in enumerate(sorted(set(range(256)) - set(_PLAIN)))
}
"""Sign that a byte-level vocabulary (GPT-2 and most after it) writes a byte as -> the byte."""


def spans(ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(first of ours, tokens, first of theirs, tokens) of the shortest pieces at whose ends both have a token's end, in order.

    ours, theirs: bytes of the text that each token adds to those before it; both add up to the text. A token that adds none (the rest
    of a character that several tokens are of) belongs to the one before it; an end token is given a byte of its own by the caller.
    """
    left, right = (_last_at(sizes) for sizes in (ours, theirs))
    found, before = [], (0, 0)
    for end in sorted(left.keys() & right.keys()):
        after = left[end] + 1, right[end] + 1
        found.append((before[0], after[0] - before[0], before[1], after[1] - before[1]))
        before = after
    return found


def _last_at(sizes: Sequence[int]) -> dict[int, int]:
    """End of a token in bytes -> the last token that ends there."""
    return {int(end): place for place, end in enumerate(np.cumsum(np.asarray(sizes, np.int64)))}


def contents(tokenizer: LanguageTokenizer) -> list[bytes | str | None]:
    """What each id stands for: bytes of text; of an end or start token its part ("eos", "bos"); None where nothing can be compared: other
    special tokens, and rows that fill up an output layer."""
    made = tokenizer.made
    special = set(made.all_special_ids)
    kind = str(made.backend_tokenizer.decoder)
    found: list[bytes | str | None] = [None] * tokenizer.size
    for token, number in made.get_vocab().items():
        if number < tokenizer.size and number not in special:
            found[number] = _content(token, kind)
    found[tokenizer.start] = "bos"
    found[tokenizer.eos] = "eos"
    return found


def _content(token: str, decoder: str) -> bytes:
    if "ByteLevel" in decoder:
        return b"".join(bytes([BYTE_LEVEL[sign]]) if sign in BYTE_LEVEL else sign.encode() for sign in token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def columns(ours: Sequence[Any], theirs: Sequence[Any]) -> np.ndarray:
    """int64 [V]: the teacher's id of each token of the student, -1 where it has none.

    Of several ids with one content the first is taken. Ids without content have no counterpart.
    """
    places: dict[Any, int] = {}
    for number, content in enumerate(theirs):
        if content is not None:
            places.setdefault(content, number)
    taken: dict[Any, int] = {}
    for number, content in enumerate(ours):
        if content in places:
            taken.setdefault(content, number)
    return np.array([places[x] if x is not None and taken.get(x) == at else -1 for at, x in enumerate(ours)], np.int64)
