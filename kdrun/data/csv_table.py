"""A table of text in a CSV file, as spreadsheets, R and pandas write it: quotes, commas, semicolons or tabs, any line end."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdrun.data.folders import composed
from kdrun.problems import UserError, closest, listed

DELIMITERS = ",;\t"
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""What a file begins with -> its encoding; without any of these it is UTF-8."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')

SAVE = "save it as CSV in UTF-8 (in Excel: CSV UTF-8)"


@dataclass(frozen=True)
class CsvTable:
    """columns: names of the header, in small letters and composed characters; rows: (line of the file, {column: cell}).

    Cells have no blanks at their ends; lines without any cell are left out.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]

    def need(self, wanted: Iterable[str], hint: str = "") -> None:
        """UserError where a column is not there, or there twice."""
        for name in wanted:
            if name not in self.columns:
                raise UserError(
                    f"{self.path}: no column {name}{closest(name, self.columns)}",
                    f"it has: {listed(map(_called, self.columns))}",
                    *([hint] if hint else []),
                )

    def unused(self, used: Iterable[str]) -> list[str]:
        """Columns with another name than these, for a note."""
        return [_called(name) for name in self.columns if name not in set(used)]


def read_csv(path: Path, key: str) -> CsvTable:
    """The table in a file that `data.<key>` names. Raises UserError with the lines of what is no table."""
    return csv_file(path, f"data.{key}={path}")


def csv_file(path: Path, named: str) -> CsvTable:
    """The same. named: what messages call the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{named}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{named}: a folder, not a file") from None
    return parse_csv(content, path, named)


def parse_csv(content: bytes, path: Path, named: str) -> CsvTable:
    """The table in the bytes of a file. named: what messages call it. Raises UserError as read_csv."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        if "\0" in text:
            raise UserError(f"{named}: no text in UTF-8 (a zero byte in {_line(text, text.index(chr(0)))})", SAVE)
    except UnicodeDecodeError as error:
        line = f" ({_line(content[: error.start].decode(), None)})" if encoding == "utf-8" else ""
        raise UserError(f"{named}: not a text in UTF-8{line}", SAVE) from None
    records = _records(path, text)
    if not records:
        raise UserError(f"{named} is empty")
    columns = tuple("".join(filter(str.isprintable, name)).strip().lower() for name in records[0][1])
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"{path}: several columns are called {', '.join(twice)}")
    wrong = [str(line) for line, cells in records[1:] if len(cells) > len(columns) and any(cells[len(columns) :])]
    if wrong:
        raise UserError(
            f"{path}: more cells than the {len(columns)} columns of the header in {lines(wrong)}",
            "a cell that holds the delimiter stands in quotes",
        )
    rows = tuple(
        (line, dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))) for line, cells in records[1:]
    )
    return CsvTable(path, columns, rows)


def lines(numbers: Iterable[object], most: int = 5) -> str:
    """`lines 2, 3, 7 ...`"""
    shown = list(map(str, numbers))
    return f"line{'s' * (len(shown) > 1)} {', '.join(shown[:most])}{' ...' if len(shown) > most else ''}"


def _records(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """(line, cells) of every record that has any; the delimiter is the one that splits the header into most cells."""
    first, rest = text.partition("\n")[::2]
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # a line that tells Excel the delimiter
        delimiter, text, skipped = first.strip()[4], rest, 1
    else:
        header = next((line for line in text.splitlines() if line.strip()), "")
        delimiter, skipped = max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), []))), 0
    literal = delimiter == "\t" and _has_stray_quotes(text)
    options = {"quoting": csv.QUOTE_NONE} if literal else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, **options)
    records = []
    try:
        for cells in reader:
            cells = [composed(cell).strip() for cell in cells]
            if any(cells):
                records.append((reader.line_num + skipped, cells))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num + skipped}: no CSV: {error}") from None
    return records


def _has_stray_quotes(text: str) -> bool:
    """Whether quotation marks in a table with tabs are letters like others, as in files of GLUE: some cell has one that does not
    quote it as a whole, and no line has fewer cells than the header, as it would where a quoted cell runs over several lines."""
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    whole = all(len(row) >= len(rows[0]) for row in rows)
    return whole and any('"' in cell and not _QUOTED.fullmatch(cell.strip()) for row in rows for cell in row)


def _line(text: str, end: int | None) -> str:
    """Where in a text a place is."""
    return f"line {text[:end].count(chr(10)) + 1}"


def _called(name: str) -> str:
    return name or "one without a name"
