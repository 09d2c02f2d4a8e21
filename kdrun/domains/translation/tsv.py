"""Pairs of text in columns between tabs, among ids, scores and names of languages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from kdrun.data.languages import is_language, side_of
from kdrun.domains.translation.text_files import Found, lines_of
from kdrun.problems import UserError, closest, listed

NAMED = (
    ("source", "src", "source_text", "source_sentence"),
    ("target", "tgt", "trg", "target_text", "target_sentence"),
)
"""What a first line may call the two columns, beside their languages."""
CODE = 3
"""Characters of a code of a language, at most."""
TITLE = 3
"""Words of a title; more are a sentence."""
_DOUBLED = re.compile('"(?=.*"".)(?:[^"]|"")*"')
_ESCAPED = re.compile(r'"(?:[^"\\]|\\.)*"')
SAMPLE = 1_000
"""Lines that are looked at to know what a column holds."""


def tsv(path: Path, languages: tuple[str, str], columns: Sequence[int | str] | None = None) -> Found:
    """Source and target between tabs; all lines have equally many columns. Quotes belong to the text, unless all of a column
    is in quotes (as R and spreadsheets write it).

    columns: (source, target), as numbers from 1 or as names in the first line. None: the two that the first line calls by
    their languages, or source and target; else the first two, which must look like text.
    """
    rows = [line.split("\t") for line in lines_of(path)]
    width = len(rows[0]) if rows else 2
    for number, row in enumerate(rows, 1):
        if len(row) != width or width < 2:
            wanted = f"line 1 has {width}" if number > 1 else "source and target between a tab"
            raise UserError(f"{path}:{number}: {len(row)} column{'s' * (len(row) != 1)}; expected: {wanted}")
    if not rows:
        return [], {}
    rows = list(zip(*map(_unquoted, zip(*rows, strict=True)), strict=True))
    # What a later line has in the same column is no title but a code: "deu" before every German sentence.
    codes = [{row[place].strip() for row in rows[1:SAMPLE]} for place in range(width)]
    titles = ["" if cell.strip() in codes[place] else cell.strip() for place, cell in enumerate(rows[0])]
    titled = _titled(path, titles, languages)
    if columns is not None:
        chosen = _asked(path, columns, titles)
        titled = titled or any(isinstance(column, str) for column in columns)
    elif titled:
        chosen = titled
    else:
        chosen = _first_two(path, rows, languages)
    first, second = chosen
    return [(row[first], row[second]) for row in (rows[1:] if titled else rows)], {}


def _unquoted(cells: Sequence[str]) -> Sequence[str]:
    """A column without quotes around every cell."""
    filled = [cell for cell in cells if cell]
    if len(filled) < 2 or not all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in filled):
        # A cell in quotes with all of its own doubled was written by a spreadsheet, which quotes only those that need it.
        return [cell[1:-1].replace('""', '"') if _DOUBLED.fullmatch(cell) else cell for cell in cells]
    escaped = all(_ESCAPED.fullmatch(cell) for cell in filled)  # R, unless told otherwise, doubles none
    return [cell[1:-1].replace('\\"' if escaped else '""', '"') for cell in cells]


def _titled(path: Path, titles: list[str], languages: tuple[str, str]) -> tuple[int, int] | None:
    """The columns of source and target where the first line names both."""
    by_word = [[t for t in titles if _word_of(t, languages) == side] for side in (0, 1)]  # English sentence, text_en
    for names in ([[t for t in titles if side_of(t, languages) == side] for side in (0, 1)], by_word, NAMED):
        places = [
            [place for place, title in enumerate(titles) if title.lower() in map(str.lower, side)] for side in names
        ]
        if all(len(side) == 1 for side in places):
            return places[0][0], places[1][0]
    named = [title for title in titles if is_language(title) and title.lower() != "id"]
    if len(named) > 1:
        missing = [
            language for side, language in enumerate(languages) if all(side_of(t, languages) != side for t in named)
        ]
        raise UserError(
            f"{path}:1 names the languages of its columns: {', '.join(named)}; "
            f"{f'none is {missing[0]}' if missing else 'one of them twice'}",
            f"say which are meant: data.source_language={named[0]} data.target_language={named[1]}",
            "or choose columns by number, the source first: data.columns=[1,2]",
        )
    return None


def _word_of(title: str, languages: tuple[str, str]) -> int | None:
    """The side of the language that one word of a short title names."""
    words = re.split(r"[\W_]+", title)
    sides = {side_of(word, languages) for word in words if is_language(word)} - {None}
    return sides.pop() if len(sides) == 1 and len(words) <= TITLE else None


def _asked(path: Path, columns: Sequence[int | str], titles: list[str]) -> tuple[int, int]:
    if not isinstance(columns, Sequence) or isinstance(columns, str) or len(columns) != 2 or columns[0] == columns[1]:
        raise UserError(f"data.columns={columns}: two columns, the source first, as in data.columns=[1,2]")
    found = []
    for column in columns:
        if isinstance(column, int) and not 1 <= column <= len(titles):
            raise UserError(f"data.columns: {path} has columns 1 to {len(titles)}, none is {column}")
        if isinstance(column, str) and titles.count(column) != 1:
            raise UserError(
                f"data.columns: the first line of {path} has no column {column!r}{closest(column, titles)}"
                if column not in titles
                else f"data.columns: the first line of {path} has {titles.count(column)} columns {column!r}",
                f"choose by number, 1 to {len(titles)}",
            )
        found.append(column - 1 if isinstance(column, int) else titles.index(column))
    return found[0], found[1]


def _first_two(path: Path, rows: Sequence[Sequence[str]], languages: tuple[str, str]) -> tuple[int, int]:
    """(0, 1). UserError where these do not look like text, with those that do."""
    looked = rows[:SAMPLE]
    text = [place for place in range(len(rows[0])) if _is_text([row[place] for row in looked])]
    if {0, 1} <= set(text):
        codes = [cell.strip() if len(cell.strip()) <= CODE else "" for cell in rows[0][:2]]  # names may be a first pair
        against = [code for side, code in enumerate(codes) if code and side_of(code, languages) == 1 - side]
        if against:
            raise UserError(
                f"{path}:1 calls a column {against[0]!r}, which is the other side's language",
                "choose columns by number, the source first: data.columns=[2,1]",
            )
        return 0, 1
    wrong = [str(place + 1) for place in (0, 1) if place not in text]
    named = [f"{place + 1} ({_shown(rows, place)})" for place in text]
    raise UserError(
        f"{path}: column{'s' * (len(wrong) > 1)} {listed(wrong)} {'are' if len(wrong) > 1 else 'is'} no text, "
        f"but numbers, codes or the same in every line",
        f"columns that look like text: {', '.join(named) or 'none'}",
        "choose two, the source first: data.columns="
        + (f"[{text[0] + 1},{text[1] + 1}]" if len(text) > 1 else "[1,2]"),
    )


def _shown(rows: Sequence[Sequence[str]], place: int) -> str:
    text = next((row[place].strip() for row in rows if row[place].strip()), "")
    return repr(text if len(text) <= 20 else f"{text[:20]}...")


def _is_text(cells: list[str]) -> bool:
    """Whether most cells are mostly letters, and not all the same."""
    filled = [cell for cell in cells if cell.strip()]
    if not filled or (len(set(filled)) == 1 and len(filled) > 1):
        return False
    return 2 * sum(map(_mostly_letters, filled)) > len(filled)


def _mostly_letters(cell: str) -> bool:
    solid = "".join(cell.split())
    letters = sum(character.isalpha() or unicodedata.category(character)[0] == "M" for character in solid)
    return "://" not in cell and 2 * letters >= len(solid)
