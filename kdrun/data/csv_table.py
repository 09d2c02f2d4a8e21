"""A table of text in a CSV file, as spreadsheets, R and pandas write it: quotes, commas, semicolons or tabs, any line end."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kdrun.data.folders import composed
from kdrun.problems import UserError, closest, listed

DELIMITERS = ",;\t"
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""What a file begins with -> its encoding; without any of these it is UTF-8."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')

Row = tuple[int, dict[str, str]]
"""(line of the file, its cells by column)."""
LONGEST = 1 << 26
"""Characters of a cell; a quotation mark that is never closed would make one of all that follows."""
csv.field_size_limit(LONGEST)
SAVE = "save it as CSV in UTF-8 (in Excel: CSV UTF-8)"


@dataclass(frozen=True)
class CsvTable:
    """columns: names of the header, in small letters and composed characters; rows: (line of the file, {column: cell}).

    Cells have no blanks at their ends; lines without any cell are left out.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

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
    with opened(path, named) as file:
        columns, rows = csv_rows(file, path, named)
        return CsvTable(path, columns, tuple(rows))


def parse_csv(content: bytes, path: Path, named: str) -> CsvTable:
    """The table in the bytes of a file. named: what messages call it. Raises UserError as read_csv."""
    columns, rows = csv_rows(io.BytesIO(content), path, named)
    return CsvTable(path, columns, tuple(rows))


def opened(path: Path, named: str) -> BinaryIO:
    """The file, to be read. UserError where there is none."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{named}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{named}: a folder, not a file") from None


def csv_rows(file: BinaryIO, path: Path, named: str) -> tuple[tuple[str, ...], Iterator[Row]]:
    """(columns, rows) of the table in a file, as of CsvTable; rows are read as they are asked for. Raises UserError as read_csv, of what is
    wrong with a row when its turn comes."""
    start = file.read(3)
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")

    def decoded() -> Iterator[str]:
        file.seek(0)
        text = io.TextIOWrapper(file, encoding, newline="")
        number = 0
        try:
            for number, line in enumerate(text, 1):
                if "\0" in line:
                    raise UserError(f"{named}: no text in UTF-8 (a zero byte in line {number})", SAVE)
                yield line
        except UnicodeError:
            raise UserError(f"{named}: not a text in UTF-8{_undecodable(file, encoding)}", SAVE) from None
        finally:
            if not file.closed:  # as it is where an error left the file behind
                text.detach()

    records = _records(path, decoded)
    header = next(records, None)
    if header is None:
        raise UserError(f"{named} is empty")
    columns = tuple("".join(filter(str.isprintable, name)).strip().lower() for name in header[1])
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"{path}: several columns are called {', '.join(twice)}")
    return columns, _cells(records, columns, path)


def _cells(records: Iterator[tuple[int, list[str]]], columns: tuple[str, ...], path: Path) -> Iterator[Row]:
    for line, cells in records:
        if len(cells) > len(columns) and any(cells[len(columns) :]):
            wrong = [line, *(more for more, row in records if any(row[len(columns) :]))]
            raise UserError(
                f"{path}: more cells than the {len(columns)} columns of the header in {lines(wrong)}",
                "a cell that holds the delimiter stands in quotes",
            )
        yield line, dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))


def _undecodable(file: BinaryIO, encoding: str) -> str:
    """Where the first line of a file is that is none in UTF-8, for a message."""
    file.seek(0)
    for number, line in enumerate(file if encoding == "utf-8" else (), 1):
        try:
            line.decode(encoding)
        except UnicodeDecodeError:
            return f" (line {number})"
    return ""


def lines(numbers: Iterable[object], most: int = 5) -> str:
    """`lines 2, 3, 7 ...`"""
    shown = list(map(str, numbers))
    return f"line{'s' * (len(shown) > 1)} {', '.join(shown[:most])}{' ...' if len(shown) > most else ''}"


def _records(path: Path, read: Callable[[], Iterator[str]]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every record that has any; the delimiter is the one that splits the header into most cells. read: gives the lines
    of the file, with their ends."""
    begin = read()
    first = next(begin, "")
    skipped = int(first.strip().lower().startswith("sep=") and len(first.strip()) == 5)  # tells Excel the delimiter
    header = next((part for line in itertools.chain([first], begin) for part in line.splitlines() if part.strip()), "")
    begin.close()
    delimiter = first.strip()[4] if skipped else ""
    delimiter = delimiter or max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    literal = delimiter == "\t" and _has_stray_quotes(itertools.islice(read(), skipped, None))
    options = {"quoting": csv.QUOTE_NONE} if literal else {"strict": True}
    reader = csv.reader(itertools.islice(read(), skipped, None), delimiter=delimiter, skipinitialspace=True, **options)
    try:
        for cells in reader:
            cells = [composed(cell).strip() for cell in cells]
            if any(cells):
                yield reader.line_num + skipped, cells
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num + skipped}: no CSV: {error}") from None


def _has_stray_quotes(text: Iterable[str]) -> bool:
    """Whether quotation marks in a table with tabs are letters like others, as in files of GLUE: some cell has one that does not
    quote it as a whole, and no line has fewer cells than the header, as it would where a quoted cell runs over several lines."""
    wide, stray = None, False
    for line in (part for lines in text for part in lines.splitlines() if part.strip()):
        row = line.split("\t")
        wide = len(row) if wide is None else wide
        if len(row) < wide:
            return False
        stray = stray or any('"' in cell and not _QUOTED.fullmatch(cell.strip()) for cell in row)
    return stray


def _called(name: str) -> str:
    return name or "one without a name"
