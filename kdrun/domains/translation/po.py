"""gettext catalogues: .po files, and templates (.pot), which have no translation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kdrun.data.languages import side_of
from kdrun.domains.translation.text_files import Found, lines_of
from kdrun.problems import UserError

_PO_STRING = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*')
_PO_FIELD = re.compile(r"(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d+)\])?(?=[\s\"])")
_PO_ESCAPE = re.compile(r"((?:\\(?:[0-7]{1,3}|x[0-9a-fA-F]{1,2}))+)|\\(.)")
_PO_CHARACTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def po(path: Path, languages: tuple[str, str], msgstr_language: str | None = None) -> Found:
    """gettext catalogue, msgid and msgstr in the direction that its header says (see _swapped).

    Of plural entries both forms are taken (singular with the first form, plural with the last). Fuzzy, obsolete and
    untranslated entries are left out.
    """
    pairs: list[tuple[str, str]] = []
    dropped: Counter[str] = Counter()
    header = ""
    for entry, flags in _po_entries(path):
        forms = [entry[key] for key in sorted(key for key in entry if key.startswith("msgstr"))]
        if entry["msgid"] == "" and "msgctxt" not in entry:
            header = "".join(forms)
            charset = re.search(r"charset=([\w-]+)", header)
            if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii", "ascii", "charset"):
                raise UserError(f"{path} says that it is {charset[1]}, not UTF-8", f"msgconv -t UTF-8 {path} > NEW")
        elif flags:
            dropped["obsolete" if "obsolete" in flags else "fuzzy"] += 1
        elif not any(forms):
            dropped["untranslated"] += 1
        else:
            pairs.append((entry["msgid"], forms[0]))
            if "msgid_plural" in entry:
                pairs.append((entry["msgid_plural"], forms[-1]))
    if pairs and _swapped(path, header, languages, msgstr_language):
        pairs = [pair[::-1] for pair in pairs]
    return pairs, dict(dropped)


def _swapped(path: Path, header: str, languages: tuple[str, str], msgstr_language: str | None) -> bool:
    """Whether msgstr is in the source language: as `Language` and `X-Source-Language` of the header (or who called) say.

    UserError where they say nothing, or that the file is in other languages: a direction is never guessed.
    """
    both = f"{languages[0]} and {languages[1]}"
    msgstr = msgstr_language or _field(header, "Language", "X-Language", "X-Poedit-Language")
    msgid = _field(header, "X-Source-Language", "X-Poedit-SourceLanguage")
    for name, said in (("msgstr", msgstr), ("msgid", msgid)):
        if said and side_of(said, languages) is None:
            raise UserError(
                f"{path}: {name} is in {said}, which is not one of {both}",
                "say its languages: data.source_language=LANGUAGE data.target_language=LANGUAGE",
            )
    if not msgstr and not msgid:
        raise UserError(
            f"{path} does not say which of {both} msgstr is in: its header has no Language",
            f"say it: data.msgstr_language={languages[1]}, or data.msgstr_language={languages[0]}",
        )
    if msgstr and msgid and side_of(msgstr, languages) == side_of(msgid, languages):
        raise UserError(
            f"{path} says that msgid is in {msgid} and msgstr in {msgstr}, which is not {both}",
            "say its languages: data.source_language=LANGUAGE data.target_language=LANGUAGE",
        )
    return side_of(msgstr, languages) == 0 if msgstr else side_of(msgid, languages) == 1


def _field(header: str, *names: str) -> str:
    """The first of these fields that the header fills."""
    for name in names:
        found = re.search(rf"^{name}:[ \t]*(\S+)", header, re.MULTILINE | re.IGNORECASE)
        if found:
            return found[1]
    return ""


def _unescaped(found: re.Match[str]) -> str:
    """The text of an escape; numbers (octal, or x and hexadecimal) are bytes in UTF-8."""
    if not found[1]:
        return _PO_CHARACTERS.get(found[2], found[2])
    numbers = found[1].split("\\")[1:]
    return bytes((int(n[1:], 16) if n[0] == "x" else int(n, 8)) & 255 for n in numbers).decode(errors="replace")


def _po_entries(path: Path) -> Iterator[tuple[dict[str, str], set[str]]]:
    """({msgid, msgstr, msgstr[0], ...: text}, {"fuzzy", "obsolete"} or less) of every entry."""
    entry: dict[str, str] = {}
    flags: set[str] = set()
    key = ""
    for number, line in enumerate([*lines_of(path), ""], 1):
        text = line.strip()
        obsolete = text.startswith("#~")
        if obsolete:
            text = text[2:].lstrip()
        if key.startswith("msgstr") and (not text or text.startswith(("#", "msgctxt", "msgid"))):
            if "msgid" not in entry:
                raise UserError(f"{path}:{number}: the entry that ends here has no msgid")
            yield entry, flags
            entry, flags, key = {}, set(), ""
        if text.startswith("#,") and "fuzzy" in text:
            flags.add("fuzzy")
        if not text or text.startswith(("#", "|")):  # comments; `#|` and `#~|` hold what msgid was before
            continue
        if obsolete:
            flags.add("obsolete")
        if field := _PO_FIELD.match(text):
            if field[1] in ("msgid", "msgctxt") and field[1] in entry:
                raise UserError(f"{path}:{number}: a second {field[1]}, and the entry before it has no msgstr")
            key = field[1] if field[2] is None else f"{field[1]}[{int(field[2]):03d}]"
            entry[key] = ""
            text = text[field.end() :]
        string = _PO_STRING.fullmatch(text)
        if string is None or not key:
            raise UserError(f"{path}:{number}: neither a keyword nor a string in quotes: {line.strip()[:60]}")
        entry[key] += _PO_ESCAPE.sub(_unescaped, string[1])
    if key:
        raise UserError(f"{path}: ends within an entry: {key} has no msgstr")
