"""When two texts are the same text: compared without what is spelling alone. No torch, no numpy."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

COMPARED = "NFKC, without case, punctuation, white space, soft hyphens and characters of no width"
"""What `pair_key` leaves out of account, for audits and docs."""

_TOKEN = re.compile(r"\d+|[^\W\d_]+(?:['’][^\W\d_]+)*")
_LOOSE = re.compile(r"[-.,:/](?!\d)|\s+")


class _Kept(dict):
    """What of each character is compared: table of str.translate that fills itself.

    Dashes become hyphens. Those, and the marks that stand within numbers, are left to _LOOSE: 1.5 is not 15.
    """

    def __missing__(self, code: int) -> str | int | None:
        character, kind = chr(code), unicodedata.category(chr(code))
        kept: str | int | None = code
        if kind == "Pd":
            kept = "-"
        elif kind[0] == "Z" or kind == "Cc":
            kept = " "
        elif kind == "Cf" or unseen(character) or (kind[0] == "P" and character not in ".,:/"):
            kept = None
        self[code] = kept
        return kept


_KEPT = _Kept()


def unseen(character: str) -> bool:
    """Whether a mark says only how the character before it is drawn (variation selectors, the grapheme joiner)."""
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef" or character == "\u034f"


def blank(text: str) -> bool:
    """Whether nothing of a text is to be seen: white space and characters of no width."""
    return not any(unicodedata.category(character)[0] not in "CZ" and not unseen(character) for character in text)


def text_key(text: str) -> str:
    """The text as COMPARED says; one of marks alone stays as it is."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _LOOSE.sub("", plain.translate(_KEPT)) or plain.strip()


def pair_key(texts: Iterable[str]) -> tuple[str, ...]:
    """What two pairs (or two conversations) have in common that are the same but for their spelling."""
    return tuple(map(text_key, texts))


_HIDDEN = re.compile("[\u00ad\u034f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


def near_key(text: str) -> str:
    """What near-duplicates have in common (see `normalised`), however their letters are composed."""
    return normalised(_HIDDEN.sub("", text if text.isascii() else unicodedata.normalize("NFKC", text)))


def normalised(sentence: str, common: frozenset[str] | None = None) -> str:
    """What near-duplicates have in common: small letters; digits 0; no punctuation; one space.

    common: of an English text; then capitalised words outside of it are names, and names are `@` like one another,
    however many follow each other. (Not for languages that capitalise nouns.)
    """
    words = []
    for token in (_TOKEN if sentence.isascii() else _tokens(sentence)).findall(sentence):
        if token[0].isdigit():
            word = "0"
        elif common is not None and token != token.lower() and token.lower() not in common:
            word = "@"
        else:
            word = token.lower()
        if not words or word not in "@0" or words[-1] != word:
            words.append(word)
    return " ".join(words)


def _tokens(sentence: str) -> re.Pattern[str]:
    """_TOKEN, or in a text with combining marks one that counts these to their words: Hindi and Thai write vowels so."""
    mark, token = _marked()
    return token if mark.search(sentence) else _TOKEN


@cache
def _marked() -> tuple[re.Pattern[str], re.Pattern[str]]:
    kinds = {code: unicodedata.category(chr(code)) for code in (*range(0x300, 0xFE00), *range(0xFE20, 0xFE30))}
    mark = "".join(chr(code) for code, kind in kinds.items() if kind in ("Mn", "Mc"))
    letters = rf"[^\W\d_](?:[^\W\d_]|[{mark}])*"
    return re.compile(f"[{mark}]"), re.compile(rf"\d+|{letters}(?:['’]{letters})*")
