"""Readers of files with text in two languages: plain lines, TSV, TMX and PO. Every mistake names its file and line."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdrun.problems import UserError

Found = tuple[list[tuple[str, str]], dict[str, int]]
"""Pairs of source and target as they stand in a file, and how many entries were left out, by reason."""


def read_pair(source: str | Path, target: str | Path | None, languages: tuple[str, str]) -> Found:
    """Two files of lines, or one .tsv, .tmx or .po; each may be gzipped (.gz). Raises UserError."""
    source = Path(source).expanduser()
    if target is not None:
        return two_files(source, Path(target).expanduser()), {}
    kind = Path(source.name.removesuffix(".gz")).suffix.lower()
    if kind not in READERS:
        raise UserError(
            f"{source} is one file of lines; its translations are missing: data.target=FILE",
            f"a single file that holds both sides ends with {', '.join(READERS)}",
        )
    return READERS[kind](source, languages)


def content_of(path: Path) -> bytes:
    """What is in a file, without gzip."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file of text") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return content


def lines_of(path: Path) -> list[str]:
    """The lines of a file in UTF-8, without a byte order mark. Only a line feed ends a line (a carriage return before it goes as well): the other
    characters that Unicode counts as line ends occur within sentences."""
    content = content_of(path)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is UTF-16, not UTF-8", f"iconv -f UTF-16 -t UTF-8 {path} > NEW")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content, error) from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _not_utf8(path: Path, content: bytes, error: UnicodeDecodeError) -> UserError:
    number = content.count(b"\n", 0, error.start) + 1
    column = error.start - content.rfind(b"\n", 0, error.start)
    return UserError(
        f"{path}:{number}: not UTF-8: byte 0x{content[error.start]:02x} at position {column} of the line",
        f"if it is Latin-1: iconv -f LATIN1 -t UTF-8 {path} > NEW",
    )


def two_files(source: Path, target: Path) -> list[tuple[str, str]]:
    """Line n of one file is the translation of line n of the other."""
    sides = lines_of(source), lines_of(target)
    counts = [len(lines) for lines in sides]
    if counts[0] != counts[1]:
        longer = source if counts[0] > counts[1] else target
        raise UserError(
            f"{source} has {counts[0]} lines, {target} has {counts[1]}: line n of one must translate line n of the other",
            f"the first line without a partner is {longer}:{min(counts) + 1}",
        )
    return list(zip(*sides, strict=True))


def tsv(path: Path, languages: tuple[str, str]) -> Found:
    """Source and target in the first two columns, between tabs, without quotes; all lines have equally many columns."""
    rows = [line.split("\t") for line in lines_of(path)]
    columns = len(rows[0]) if rows else 2
    for number, row in enumerate(rows, 1):
        if len(row) != columns or columns < 2:
            wanted = f"line 1 has {columns}" if number > 1 else "source and target between a tab"
            raise UserError(f"{path}:{number}: {len(row)} column{'s' * (len(row) != 1)}; expected: {wanted}")
    return [(row[0], row[1]) for row in rows], {}


def tmx(path: Path, languages: tuple[str, str]) -> Found:
    """Translation memory: the first variant in each of the two languages of every unit; `de` also means `de-AT`."""
    from xml.parsers import expat

    reader = _Tmx(path, languages)
    try:
        reader.parser.Parse(content_of(path), True)
    except expat.ExpatError as error:
        raise UserError(f"{path}:{error.lineno}: not XML: {expat.errors.messages[error.code]}") from None
    if not reader.pairs and reader.seen:
        raise UserError(
            f"{path} has no unit in {languages[0]} and {languages[1]}; it has: {', '.join(sorted(reader.seen))}",
            "say which languages it has: data.source_language=LANGUAGE data.target_language=LANGUAGE",
        )
    return reader.pairs, dict(reader.dropped)


class _Tmx:
    """Reads with the bare parser: nothing outside of the file is opened, and entities that the file defines (with
    which a small file becomes gigabytes) are refused."""

    HIDDEN = frozenset(("bpt", "ept", "ph", "it", "ut"))  # codes of the program the text is from

    def __init__(self, path: Path, languages: tuple[str, str]):
        from xml.parsers import expat

        self.path, self.languages = path, languages
        self.pairs: list[tuple[str, str]] = []
        self.dropped: Counter[str] = Counter()
        self.seen: set[str] = set()
        self._variants: dict[str, str] = {}
        self._language = ""
        self._text: list[str] | None = None
        self._hidden = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.CharacterDataHandler, self.parser.EntityDeclHandler = self._characters, self._entity

    def _entity(self, name: str, *_: Any) -> None:
        raise UserError(f"{self.path}:{self.parser.CurrentLineNumber}: defines the entity {name!r}, which is refused")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._variants = {}
        elif name == "tuv":
            self._language = attributes.get("xml:lang", attributes.get("lang", "")).lower().replace("_", "-")
            self.seen.add(self._language)
        elif name == "seg":
            self._text = []
        elif name in self.HIDDEN:
            self._hidden += 1

    def _characters(self, text: str) -> None:
        if self._text is not None and not self._hidden:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if name == "seg":
            self._variants.setdefault(self._language, "".join(self._text or ()))
            self._text = None
        elif name in self.HIDDEN:
            self._hidden -= 1
        elif name == "tu":
            texts = [self._in(language) for language in self.languages]
            if None in texts:
                self.dropped["other languages"] += 1
            else:
                self.pairs.append((texts[0], texts[1]))

    def _in(self, language: str) -> str | None:
        wanted = language.lower()
        if wanted in self._variants:
            return self._variants[wanted]
        return next((text for found, text in self._variants.items() if found.partition("-")[0] == wanted), None)


_PO_STRING = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*')
_PO_FIELD = re.compile(r"(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d+)\])?(?=[\s\"])")
_PO_ESCAPE = re.compile(r"\\(.)")
_PO_CHARACTERS = {"n": "\n", "t": "\t", "r": "\r"}


def po(path: Path, languages: tuple[str, str]) -> Found:
    """gettext catalogue: msgid is the source, unless the header says `Language:` of the source for msgstr.

    Of plural entries both forms are taken (singular with the first form, plural with the last). Fuzzy, obsolete and
    untranslated entries are left out.
    """
    pairs: list[tuple[str, str]] = []
    dropped: Counter[str] = Counter()
    swapped = False
    for entry, flags in _po_entries(path):
        forms = [entry[key] for key in sorted(key for key in entry if key.startswith("msgstr"))]
        if entry["msgid"] == "" and "msgctxt" not in entry:
            header = "".join(forms)
            language = re.search(r"^Language:\s*([A-Za-z]+)", header, re.MULTILINE)
            swapped = bool(language) and language[1].lower() == languages[0].lower() != languages[1].lower()
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
    return [pair[::-1] for pair in pairs] if swapped else pairs, dict(dropped)


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
            key = field[1] if field[2] is None else f"{field[1]}[{int(field[2]):03d}]"
            entry[key] = ""
            text = text[field.end() :]
        string = _PO_STRING.fullmatch(text)
        if string is None or not key:
            raise UserError(f"{path}:{number}: neither a keyword nor a string in quotes: {line.strip()[:60]}")
        entry[key] += _PO_ESCAPE.sub(lambda found: _PO_CHARACTERS.get(found[1], found[1]), string[1])
    if key:
        raise UserError(f"{path}: ends within an entry: {key} has no msgstr")


READERS = {".tsv": tsv, ".tab": tsv, ".tmx": tmx, ".po": po, ".pot": po}
