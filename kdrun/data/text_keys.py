"""When two texts are the same text: compared without what is spelling alone. No torch, no numpy."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from kdrun.domains.translation.clean import normalised

COMPARED = "NFKC, without case, punctuation, white space, soft hyphens and characters of no width"
"""What `pair_key` leaves out of account, for audits and docs."""

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
    """What near-duplicates have in common (text_clean.normalised), however their letters are composed."""
    return normalised(_HIDDEN.sub("", text if text.isascii() else unicodedata.normalize("NFKC", text)))
