"""The strings of programs, taken out of their packages into small tables that are pinned by content.

A table has one row a line, its cells between tabs, rows sorted and distinct; backslash, tab and line ends within a cell
are written `\\\\`, `\\t`, `\\n` and `\\r`. The same strings give the same bytes, whatever archive they came in. Standard library
only: `kdrun fetch` stands on it.
"""

from __future__ import annotations

import html
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_WRITTEN = {written: character for character, written in _ESCAPES.items()}
_TO_ESCAPE, _ESCAPED = re.compile(r"[\\\t\n\r]"), re.compile(r"\\[\\tnr]")


@dataclass(frozen=True)
class Extract:
    """One table: which members of an archive or folder it is made of, and its rows from {path: content}."""

    members: re.Pattern[str]
    rows: Callable[[dict[str, bytes]], Iterator[tuple[str, ...]]]

    def table(self, found: dict[str, bytes]) -> bytes:
        """Raises ValueError for content that is not what it should be."""
        lines = set()
        try:
            for row in self.rows(found):
                lines.add("\t".join(_TO_ESCAPE.sub(lambda m: _ESCAPES[m[0]], cell) for cell in row))
        except struct.error as error:
            raise ValueError(str(error)) from error
        return "".join(f"{line}\n" for line in sorted(lines)).encode()


def read_table(content: bytes) -> list[tuple[str, ...]]:
    """The rows of a table."""
    rows = []
    for line in content.decode().split("\n")[:-1]:
        cells = line.split("\t")
        rows.append(tuple(_ESCAPED.sub(lambda m: _WRITTEN[m[0]], cell) if "\\" in cell else cell for cell in cells))
    return rows


def _translations(found: dict[str, bytes]) -> Iterator[tuple[str, str, str]]:
    """(component and path of keys, English, German) of the JSON trees of Home Assistant's components."""
    texts: dict[str, dict[str, str]] = {"en": {}, "de": {}}
    for path, content in found.items():
        component, _, file = path.split("/")[-3:]
        texts[file.removesuffix(".json")].update(_leaves(json.loads(content), component))
    for key in texts["en"].keys() & texts["de"].keys():
        yield key, texts["en"][key], texts["de"][key]


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(tree, str):
        yield path, tree


# The pages are made by a program, so a paragraph always looks like this, and no paragraph is in another.
_PARAGRAPH = re.compile(r'<(p|h[1-6])\b[^>]*?\bid="((?:par|hd)_id[^"]*)"[^>]*>(.*?)</\1>', re.DOTALL)
_TAG = re.compile(r"<(/?)(\w+)([^>]*)>")


def _paragraphs(found: dict[str, bytes]) -> Iterator[tuple[str, str]]:
    """(page, id and how often it was there before, text) of every paragraph of the pages of LibreOffice's help."""
    for path, content in found.items():
        page = path.rpartition("/text/")[2].removesuffix(".html")
        before: Counter[str] = Counter()  # parts that several pages share bring an id more than once
        for _, name, inside in _PARAGRAPH.findall(content.decode()):
            text = _shown(inside)
            if text:
                yield f"{page}#{name}.{before[name]}", text
            before[name] += 1


def _shown(inside: str) -> str | None:
    """The text of a paragraph as a reader on Linux sees it; None where it depends on the program that asks.

    `switchinline` spans hold variants for systems (MAC) and programs (CALC), all hidden, and a default without a class.
    """
    text: list[str] = []
    spans: list[str] = []  # of every open span: "switch", "variant", "default" or ""
    position = 0
    defaults = 0
    for tag in _TAG.finditer(inside):
        if "variant" not in spans:
            text.append(inside[position : tag.start()])
        position = tag.end()
        closing, name, attributes = tag.groups()
        if name == "br":
            text.append("\n")
        elif name == "span" and closing:
            if spans and spans.pop() == "switch":
                if not defaults:
                    return None
                defaults -= 1
        elif name == "span":
            kind = ""
            if 'class="switchinline"' in attributes:
                kind = "switch"
            elif "hidden=" in attributes and spans and spans[-1] == "switch":
                kind = "variant" if "class=" in attributes else "default"
                defaults += kind == "default"
            spans.append(kind)
    text.append(inside[position:])
    lines = html.unescape("".join(text).replace("\r", "")).split("\n")
    return "\n".join(" ".join(line.split()) for line in lines).strip()


def _catalogues(found: dict[str, bytes]) -> Iterator[tuple[str, str, str]]:
    """(catalogue and context, English, German) of compiled gettext catalogues; plural forms side by side."""
    for path, content in found.items():
        catalogue = path.rpartition("/")[2].removesuffix(".mo")
        for source, translation in _catalogue(content):
            context, _, identifier = source.rpartition("\x04")
            if identifier:
                for english, german in zip(identifier.split("\0"), translation.split("\0"), strict=False):
                    yield f"{catalogue}:{context}", english, german


def _catalogue(content: bytes) -> Iterator[tuple[str, str]]:
    """The entries of a .mo file (GNU gettext manual, "The Format of GNU MO Files")."""
    order = "<" if content[:4] == b"\xde\x12\x04\x95" else ">"
    _, count, sources, translations = struct.unpack_from(f"{order}4I", content, 4)
    for number in range(count):
        texts = []
        for table in (sources, translations):
            length, start = struct.unpack_from(f"{order}2I", content, table + 8 * number)
            texts.append(content[start : start + length].decode())
        yield texts[0], texts[1]


EXTRACTS = {
    "homeassistant": Extract(re.compile(r"(^|/)components/[^/]+/translations/(en|de)\.json$"), _translations),
    "libreoffice_help_en": Extract(re.compile(r"(^|/)help/en-US/text/.+\.html$"), _paragraphs),
    "libreoffice_help_de": Extract(re.compile(r"(^|/)help/de/text/.+\.html$"), _paragraphs),
    "libreoffice_ui": Extract(re.compile(r"(^|/)resource/de/LC_MESSAGES/[^/]+\.mo$"), _catalogues),
}
"""What a file of fetchable.toml may name as its `extract`."""
