"""Languages as people and files name them, and scripts that put no blank between words. No torch, no numpy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

# ISO 639-1 (else 639-3): other codes and the English name. What is here only decides which names mean the same
# language, and which endings of files are languages; a language that is not here works under any one name.
_NAMES = """
ar ara arabic|bg bul bulgarian|bo bod tib tibetan|bn ben bengali|ca cat catalan|cs ces cze cz czech|da dan dk danish
de deu ger german|dz dzo dzongkha|el ell gre greek|en eng english|es spa spanish|et est estonian|fa fas per persian
fi fin finnish|fr fra fre french|ga gle irish|gu guj gujarati|he heb iw hebrew|hi hin hindi|hr hrv croatian
hu hun hungarian|id ind indonesian|is isl ice icelandic|it ita italian|ja jpn jp japanese|ka kat geo georgian
km khm khmer|ko kor korean|lo lao|lt lit lithuanian|lv lav latvian|mk mkd mac macedonian|mr mar marathi|ms msa may malay
my mya bur burmese myanmar|nb nob|ne nep nepali|nl nld dut dutch|nn nno|no nor norwegian|pa pan punjabi|pl pol polish
pt por portuguese|ro ron rum romanian|ru rus russian|sk slk slo slovak|sl slv slovenian|sq sqi alb albanian
sr srp serbian|sv swe swedish|ta tam tamil|te tel telugu|th tha thai|tr tur turkish|uk ukr ua ukrainian|ur urd urdu
vi vie vietnamese|yue cantonese|zh zho chi cmn cn chinese
"""
_KNOWN = {name: names.split()[0] for names in re.split(r"[|\n]", _NAMES.strip()) for name in names.split()}

UNSPACED = frozenset(("bo", "dz", "ja", "km", "lo", "lzh", "my", "shn", "th", "wuu", "yue", "zh"))
"""Languages that put no blank between words."""
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
SAMPLE = 2_000
"""Sentences that are looked at to know a script."""


def tag_of(name: str) -> str:
    """A language tag in one spelling: `de_AT.UTF-8`, `ger-at` and `de-AT` are `de-at`; `German` is `de`."""
    first, *rest = re.split(r"[-_]", name.strip().partition(".")[0].partition("@")[0].lower())
    return "-".join([_KNOWN.get(first, first), *rest])


def language_of(name: str) -> str:
    """The language alone: `de` of `de-AT`."""
    return tag_of(name).partition("-")[0]


def is_language(name: str) -> bool:
    """Whether this certainly names a language: one of the table, perhaps with a region."""
    return bool(re.fullmatch(r"[A-Za-z]+(?:[-_][A-Za-z0-9]{2,4})*", name)) and language_of(name) in _KNOWN


def side_of(name: str, languages: Sequence[str]) -> int | None:
    """Which of two languages a tag of a file means: 0, 1, or None where it is neither, or could be both.

    Equal tags win; else `de-AT` and `de` are the same language, `de-AT` and `de-CH` are not.
    """
    tag, tags = tag_of(name), [tag_of(language) for language in languages]
    for fits in (lambda one: one == tag, lambda one: one.startswith(f"{tag}-") or tag.startswith(f"{one}-")):
        sides = [side for side, one in enumerate(tags) if fits(one)]
        if sides:
            return sides[0] if len(sides) == 1 else None
    return None


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that puts no blank between words."""
    return _UNSPACED.match(character) is not None


def unspaced_share(texts: Iterable[str]) -> float:
    """Share of the characters of the first texts that are of such a script; blanks are not counted."""
    found = total = 0
    for text in islice(texts, SAMPLE):
        found += len(_UNSPACED.findall(text))
        total += len(text) - text.count(" ")
    return found / total if total else 0.0


def units(text: str, unspaced: bool) -> int:
    """Length of a text without double blanks: its words, or (unspaced) its characters without blanks."""
    return len(text) - text.count(" ") if unspaced else text.count(" ") + 1
