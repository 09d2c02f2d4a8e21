"""German-English text of programs (`kdrun fetch ui_de_en`): the interface of Home Assistant (Apache-2.0), and help and
interface of LibreOffice (MPL-2.0)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data import kept, randomness
from kdrun.data.fetch import default_cache, needed, place
from kdrun.data.source import SPLITS, TRAIN, UNUSED
from kdrun.data.text_keys import normalised
from kdrun.domains.translation import clean as text_clean
from kdrun.domains.translation.shipped.ui_strings import read_table
from kdrun.domains.translation.source import Pairs
from kdrun.problems import UserError, closest

TARGETS = ("ui_de_en",)

DOMAINS = ("homeassistant", "libreoffice", "all")
DIRECTIONS = ("de-en", "en-de")
FILES = ("homeassistant.en-de.tsv", "libreoffice_help.en.tsv", "libreoffice_help.de.tsv", "libreoffice_ui.en-de.tsv")
SHIFTED = 1_500
"""Pairs of the other domain that make its test set."""


def ui_de_en(
    root: str | Path | None = None,
    domain: str = "homeassistant",
    direction: str = "de-en",
    max_words: int | None = None,
    *,
    cache: str | Path | None = None,
) -> Pairs:
    """Clean sentence pairs of one domain for training, validation and test, and of the other as the test set "shift".

    domain     homeassistant, libreoffice, or all (then there is no "shift")
    direction  de-en or en-de. It changes neither ids nor splits
    max_words  pairs with more words on a side are left out of every split; None: as many as are clean, 40
    root       folder with the four tables instead of what `kdrun fetch ui_de_en` brought

    Pairs are grouped by their English sentence without case, digits, punctuation and names, so that near-duplicates
    such as "Sensor 1" and "Sensor 2" are never in two splits.
    """
    for key, value, allowed in (("domain", domain, DOMAINS), ("direction", direction, DIRECTIONS)):
        if value not in allowed:
            raise UserError(f"data.{key}={value}: one of {', '.join(allowed)}{closest(str(value), allowed)}")
    cache = Path(cache or default_cache())
    files = {name: Path(root) / name for name in FILES} if root is not None else needed("ui_de_en", cache)
    english, german, parts, dropped = _cleaned(files, cache)
    split, ids = np.full(len(parts), TRAIN, np.int8), np.arange(len(parts))
    outside = np.flatnonzero([not _within(part, domain) for part in parts])
    outside = outside[randomness.order(randomness.key("ui_de_en", "shift"), outside)]
    split[outside[:SHIFTED]] = len(SPLITS)
    split[outside[SHIFTED:]] = UNUSED
    long = np.array([max_words is not None and longest(pair) > max_words for pair in zip(english, german, strict=True)])
    long &= split != UNUSED
    split[long] = UNUSED
    used = np.flatnonzero(split != UNUSED).tolist()
    if not used:
        raise UserError(f"data.max_words={max_words}: no pair is so short", "clean pairs have 3 words and more")
    common = text_clean.common_words(english)
    texts = {"en": [english[row] for row in used], "de": [german[row] for row in used]}
    languages = tuple(direction.split("-"))
    left_out = (Counter(found) for part, found in dropped.items() if _within(part, domain))
    return Pairs(
        name="ui_de_en",
        languages=languages,
        source=texts[languages[0]],
        target=texts[languages[1]],
        split=split[used],
        ids=ids[used],
        extra=() if domain == "all" else ("shift",),
        groups=[normalised(sentence, common) for sentence in texts["en"]],
        dropped=dict(sum(left_out, Counter({"longer": int(long.sum())} if max_words is not None else {}))),
    )


ui_de_en.reads = place("ui_de_en")


def longest(pair: tuple[str, str]) -> int:
    """Words of the longer side."""
    return max(len(text.split()) for text in pair)


def _within(part: str, domain: str) -> bool:
    return domain == "all" or part.startswith(domain)


def _cleaned(files: dict[str, Path], cache: Path) -> tuple[list[str], list[str], list[str], dict[str, dict[str, int]]]:
    """English, German, the part each pair is from, and per part how many were left out by reason; kept in the cache.

    Home Assistant comes first, then help and interface of LibreOffice; a pair that is in two belongs to the first.
    """
    try:
        contents = {name: files[name].read_bytes() for name in FILES}
    except FileNotFoundError as error:
        raise UserError(f"data.root has no {error.filename}", "leave data.root out and: kdrun fetch ui_de_en") from None
    key = hashlib.sha256()
    for content in (Path(__file__).read_bytes(), Path(text_clean.__file__).read_bytes(), *contents.values()):
        key.update(hashlib.sha256(content).digest())
    path = cache / "text" / f"ui_de_en-{key.hexdigest()[:16]}.json"
    found = json.loads(kept.content(path, lambda: json.dumps(_clean(contents), ensure_ascii=False).encode()))
    return found["english"], found["german"], found["parts"], found["dropped"]


def _clean(contents: dict[str, bytes]) -> dict[str, Any]:
    interface, english_help, german_help, office = (read_table(contents[name]) for name in FILES)
    german = dict(german_help)
    strings = {
        "homeassistant": [(english, other) for _, english, other in interface],
        "libreoffice_help": [(text, german[place]) for place, text in english_help if place in german],
        "libreoffice_ui": [(english, other) for _, english, other in office],
    }
    pairs: dict[tuple[str, str], str] = {}
    dropped: dict[str, Counter[str]] = {}
    for part, texts in strings.items():
        clean, left_out = text_clean.clean(texts, accelerators=part == "libreoffice_ui")
        dropped[part] = Counter(left_out)
        for pair in clean:
            dropped[part]["repeated"] += pair in pairs
            pairs.setdefault(pair, part)
    return {
        "english": [english for english, _ in pairs],
        "german": [other for _, other in pairs],
        "parts": list(pairs.values()),
        "dropped": dropped,
    }
