"""From the strings of programs and their manuals to pairs of plain sentences. No torch, no numpy.

A string becomes text (markup, placeholders and accelerators taken out), text becomes lines and sentences where both
sides have equally many, and a pair of those is kept if it looks like a translation of prose.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator

WORDS = (3, 40)
"""Fewest and most English words of a pair."""
RATIO = 2.5
"""One side may have up to so many times the words of the other."""
LETTERS = 0.6
"""Least share of letters among the characters that are not spaces."""

_LINK = re.compile(r"!?\[([^\][]*)\]\([^)\s]*\)")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_ADDRESS = re.compile(r"\b(?:https?|ftp)://\S+")
_PLACEHOLDER = re.compile(
    r"\{[^{}]*\}"  # {name}
    r"|\$\([^()]*\)|\$\d\$?|\$\{[^{}]*\}|\$\[[^\][]*\]"  # $(ARG1) $1 $1$ ${name} $[name]
    r"|%(?:\d+\$?)?[sdifux](?![A-Za-z])|%\d+(?![\d\s]*%)\b|%[A-Z][A-Z_0-9]+%?|%\([a-z_]+\)[sd]"  # %s %1 %NAME %(name)s
)
_EMPHASIS = re.compile(r"\*\*|__|`+|(?m:^\s*(?:#+|[-*+]|\d+\.)\s+)|(?<!\w)[*_]|[*_](?!\w)")
_ACCELERATOR = re.compile(r"~|_(?=\w)")
_EMPTY = re.compile(r"\(\s*\)|\[\s*\]|„\s*[“”]|[“”]\s*[“”]|\"\s*\"|'\s*'|‚\s*‘|«\s*»|»\s*«")
_BEFORE_MARK = re.compile(r"\s+([,;:!?)\]]|\.(?!\w))")
_DANGLING = re.compile(r"[,;:]\s*(?=[.!?](?!\w))")  # "failed: {error}." without the error
_SPACE = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")
# Two characters other than digits and dots before the mark: no "1.", "e.g." or "z. B." ends a sentence.
_END = r"(?<=[^\s.\d][^\s.\d][.!?])"
_END_QUOTED = r"(?<=[^\s.\d][^\s.\d][.!?][\"”“’')])"
_SENTENCES = re.compile(rf"(?:{_END}|{_END_QUOTED})\s+(?=[\"„“‚'(]?[A-ZÄÖÜ])")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def text_of(string: str, accelerators: bool = False) -> str:
    """The words of a string: markup and placeholders taken out, one space between words, lines kept.

    accelerators: take out the `~` and `_` that mark a menu's letters.
    """
    text = html.unescape(string)
    text = _LINK.sub(r"\1", text)
    text = _TAG.sub(" ", text)
    text = _ADDRESS.sub("", text)
    text = text.replace("%PRODUCTNAME", "LibreOffice")
    text = _PLACEHOLDER.sub("", text)
    if accelerators:
        text = _ACCELERATOR.sub("", text)
    text = _EMPHASIS.sub("", text)
    text = _EMPTY.sub("", text)
    text = _SPACE.sub(" ", text.replace("\u00ad", ""))
    text = _DANGLING.sub("", _BEFORE_MARK.sub(r"\1", text))
    return _LINES.sub("\n", text).strip(" \n-–:,;")


def pieces(english: str, other: str) -> Iterator[tuple[str, str]]:
    """The lines of two texts side by side, and their sentences likewise, where both have equally many; else whole."""
    lines, others = english.split("\n"), other.split("\n")
    if len(lines) != len(others):
        lines, others = [" ".join(lines)], [" ".join(others)]
    for line, its in zip(lines, others, strict=True):
        sentences, theirs = _SENTENCES.split(line), _SENTENCES.split(its)
        if len(sentences) == len(theirs):
            yield from zip(sentences, theirs, strict=True)
        else:
            yield line, its


def refusal(english: str, other: str) -> str | None:
    """Why a pair is no translation of prose, in one word that is counted; None where it may be one."""
    if not english or not other:
        return "empty"
    words = len(english.split())
    if words < WORDS[0]:
        return "short"
    if words > WORDS[1]:
        return "long"
    if not 1 / RATIO <= len(other.split()) / words <= RATIO:
        return "ratio"
    if english == other:
        return "identical"
    if min(_letters(english), _letters(other)) < LETTERS:
        return "letters"
    return None


def _letters(text: str) -> float:
    solid = text.replace(" ", "")
    return sum(map(str.isalpha, solid)) / len(solid)


def clean(
    strings: Iterable[tuple[str, str]], accelerators: bool = False
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(distinct pairs of English and other, in the order of their first occurrence; how many were left out and why).

    strings: (English, other) as a program has them; repeated ones are read once.
    """
    pairs: dict[tuple[str, str], None] = {}
    dropped: Counter[str] = Counter()
    for english, other in dict.fromkeys(strings):
        for pair in pieces(text_of(english, accelerators), text_of(other, accelerators)):
            if reason := refusal(*pair):
                dropped[reason] += 1
            elif pair in pairs:
                dropped["repeated"] += 1
            else:
                pairs[pair] = None
    return list(pairs), dict(sorted(dropped.items()))


def common_words(sentences: Iterable[str]) -> frozenset[str]:
    """The words that occur in small letters somewhere."""
    return frozenset(word for sentence in sentences for word in _WORD.findall(sentence) if word == word.lower())
