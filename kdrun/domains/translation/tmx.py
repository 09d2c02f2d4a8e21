"""Translation memories (TMX). What one unit has wrong loses that unit, not the file."""

from __future__ import annotations

import html.entities
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from kdrun.data.languages import is_unspaced, side_of, tag_of
from kdrun.domains.translation.text_files import Found, content_of
from kdrun.problems import UserError

UNREADABLE = "with a character that XML forbids"
"""Reason of units that are left out for a control character, or for an entity that nobody defines."""
_CODE, _LOST = "\ufdd0", "\ufdd1"
"""What stands for a code between words, and for what cannot be read: no characters of any text (Unicode, 23.7)."""


def tmx(path: Path, languages: tuple[str, str]) -> Found:
    """The first variant in each of the two languages of every unit; `de` also means `de-AT`."""
    from xml.parsers import expat

    if tag_of(languages[0]) == tag_of(languages[1]):
        raise UserError(
            f"{path}: source and target are both {languages[0]}: data.source_language, data.target_language"
        )
    content, encoding = _readable(path, content_of(path))
    reader = _Tmx(path, languages, encoding)
    try:
        reader.parser.Parse(content, True)
    except expat.ExpatError as error:
        raise UserError(f"{path}:{error.lineno}: not XML: {expat.errors.messages[error.code]}") from None
    except ValueError as error:  # of encodings that the parser does not know
        raise UserError(f"{path}: {error}", "save it as UTF-8, and change encoding= in its first line") from None
    if not reader.pairs and reader.seen:
        seen = ", ".join(tag or "variants without a language" for tag in sorted(reader.seen))
        left_out = {reason: count for reason, count in reader.dropped.items() if reason != "other languages"}
        raise UserError(
            f"{path} has no unit in {languages[0]} and {languages[1]}; it has: {seen}"
            + (f"; left out: {left_out}" if left_out else ""),
            "say which languages it has: data.source_language=LANGUAGE data.target_language=LANGUAGE",
        )
    return reader.pairs, dict(reader.dropped)


class _Tmx:
    """Reads with the bare parser: nothing outside of the file is opened, and entities that the file defines (with
    which a small file becomes gigabytes) are refused."""

    HIDDEN = frozenset(("bpt", "ept", "ph", "it", "ut", "x", "bx", "ex"))  # codes of the program the text is from

    def __init__(self, path: Path, languages: tuple[str, str], encoding: str | None):
        from xml.parsers import expat

        self.path, self.languages = path, languages
        self.pairs: list[tuple[str, str]] = []
        self.dropped: Counter[str] = Counter()
        self.seen: set[str] = set()
        self._variants: dict[str, str] = {}
        self._language = ""
        self._text: list[str] | None = None
        self._codes: list[tuple[str, str]] = []  # names and types of the codes that are open
        self._code: list[str] = []
        self._marked: list[int] = []  # pieces of text there were where each other element within a segment began
        self.parser = expat.ParserCreate(encoding)
        self.parser.buffer_text = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.CharacterDataHandler, self.parser.EntityDeclHandler = self._characters, self._entity

    def _entity(self, name: str, *_: Any) -> None:
        raise UserError(f"{self.path}:{self.parser.CurrentLineNumber}: defines the entity {name!r}, which is refused")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._variants = {}
        elif name == "tuv":
            self._language = tag_of(attributes.get("xml:lang", attributes.get("lang", "")))
            self.seen.add(self._language)
        elif name == "seg":
            self._text, self._marked = [], []
        elif name in self.HIDDEN:
            if not self._codes:
                self._code = []
            self._codes.append((name, attributes.get("type", "")))
        elif self._text is not None:
            self._marked.append(len(self._text))

    def _characters(self, text: str) -> None:
        if self._text is not None:
            (self._code if self._codes else self._text).append(text)

    def _end(self, name: str) -> None:
        if name == "seg":
            self._variants.setdefault(self._language, _joined("".join(self._text or ())))
            self._text = None
        elif name in self.HIDDEN:
            kind = self._codes.pop()
            if not self._codes and self._text is not None and _parts(*kind, "".join(self._code)):
                self._text.append(_CODE)
        elif self._text is not None and name not in ("tu", "tuv"):
            if self._marked.pop() == len(self._text) and not self._codes and name not in ("hi", "g", "mrk"):
                self._text.append(_CODE)  # an empty element that TMX does not know: a line break of HTML, say
        elif name == "tu":
            texts = [self._in(side) for side in (0, 1)]
            if None in texts:
                self.dropped["other languages"] += 1
            elif any(_LOST in text for text in texts):
                self.dropped[UNREADABLE] += 1
            else:
                self.pairs.append((texts[0], texts[1]))

    def _in(self, side: int) -> str | None:
        wanted = tag_of(self.languages[side])
        if wanted in self._variants:
            return self._variants[wanted]
        return next((text for tag, text in self._variants.items() if side_of(tag, self.languages) == side), None)


_BREAK = re.compile(
    r"\s*</?(?:address|article|blockquote|br|dd|div|dl|dt|h[1-6]|hr|img|li|ol|p|pre|section|t[dhr]|table|ul)\b", re.I
)
_STYLE = re.compile(
    r"\s*</?(?:a|abbr|b|big|cf|cite|code|del|em|f|font|g|i|ins|kbd|mark|q|s|samp|small|span|strike|strong|su[bp]|tt|u|var)"
    r"\b",
    re.I,
)
_STYLES = ("bold", "color", "dulined", "font", "fnt", "fmt", "italic", "link", "scap", "struct", "ulined")


def _parts(name: str, kind: str, code: str) -> bool:
    """Whether a code may stand between words instead of a blank: a line break, a picture, a value that is put in.

    The others are how letters look, and begin and end within words: H<sub>2</sub>O.
    """
    if _BREAK.match(code) or kind in ("lb", "pb", "cb", "tab", "image"):
        return True
    return name in ("ph", "ut", "x") and not _STYLE.match(code) and kind.removeprefix("x-") not in _STYLES


def _joined(text: str) -> str:
    """The text with a blank for each code that words would run together without."""
    return re.sub(f"(?s)(.?){_CODE}+(?=(.?))", lambda found: found[1] + " " * _blank(found[1], found[2]), text)


def _blank(before: str, after: str) -> bool:
    kinds = [unicodedata.category(character) if character else "" for character in (before, after)]
    words = [kind[:1] in ("L", "M", "N") for kind in kinds]
    if not (words[0] or before in set(".,;:!?…%") or kinds[0] in ("Pe", "Pf")):
        return False
    if not (words[1] or kinds[1] in ("Ps", "Pi")):
        return False
    return not (is_unspaced(before) or is_unspaced(after))


_REFERENCE = re.compile(rb"&(?:#(\d{1,9})|#x([0-9a-fA-F]{1,8})|([A-Za-z][A-Za-z0-9]*));")
_RAW = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
_DEFINED = (b"amp", b"lt", b"gt", b"quot", b"apos")


def _readable(path: Path, content: bytes) -> tuple[bytes, str | None]:
    """(content that the parser can read, its encoding where that is not what the file says).

    Characters that XML forbids and entities that are not defined become _LOST, those of HTML their character.
    """
    encoding = None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            content, encoding = content.decode("utf-16").encode(), "utf-8"
        except UnicodeDecodeError as error:
            raise UserError(f"{path} begins as UTF-16 and is not: {error.reason} at byte {error.start}") from None
    lost = b"&#x%X;" % ord(_LOST)

    def read(found: re.Match[bytes]) -> bytes:
        decimal, hexadecimal, name = found.groups()
        if name is not None:
            characters = html.entities.html5.get(f"{name.decode()};", _LOST)
            return found[0] if name in _DEFINED else b"".join(b"&#%d;" % ord(one) for one in characters)
        number = int(decimal) if hexadecimal is None else int(hexadecimal, 16)
        allowed = (
            number in (9, 10, 13) or 0x20 <= number < 0xD800 or 0xE000 <= number < 0xFFFE or 0xFFFF < number < 0x110000
        )
        return found[0] if allowed else lost

    if b"\0" in content[:4]:  # UTF-16 without a mark, which the parser knows by its first characters
        return content, encoding
    return _RAW.sub(lost, _REFERENCE.sub(read, content)), encoding
