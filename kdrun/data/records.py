"""Rows of values by column, of whatever kind of file or folder they come in: CSV, TSV, JSONL, Parquet, and what the package `datasets` keeps on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdrun.data.csv_table import csv_file
from kdrun.optional import needed
from kdrun.problems import UserError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""What files of rows end with."""
FOLDER, FOLDERS = "dataset_info.json", "dataset_dict.json"
"""What lies in a folder of `Dataset.save_to_disk`, and of `DatasetDict.save_to_disk`."""

Records = list[tuple[int, dict[str, Any]]]
"""(line of a text file, else number of the row from 1; its values by column)."""


def records(path: Path, named: str) -> Records:
    """The rows of a file NAME.csv, .tsv, .jsonl, .ndjson, .json (an object in each line) or .parquet, or of a folder of `datasets`.

    named: what messages call it. Raises UserError, with lines, for a file that cannot be read.
    """
    kind = path.suffix.lower()
    if path.is_dir():
        return _of_folder(path, named)
    if kind in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path, named)
    if kind == ".parquet":
        if not path.is_file():
            raise UserError(f"{named}: there is no such file")
        reader = needed("pyarrow.parquet", f"{named}: reading Parquet needs pyarrow")
        try:
            return list(enumerate(reader.read_table(path).to_pylist(), 1))
        except (OSError, ValueError) as error:
            raise UserError(f"{named}: no Parquet file: {(str(error).splitlines() or [''])[0]}") from None
    return [(number, dict(cells)) for number, cells in csv_file(path, named).rows]


def splits_of(path: Path) -> dict[str, Path]:
    """Name -> folder of the splits that a folder of `DatasetDict.save_to_disk` holds; {} for anything else."""
    try:
        names = json.loads((path / FOLDERS).read_bytes())["splits"]
    except (OSError, ValueError, KeyError):
        return {}
    return {str(name): path / str(name) for name in names}


def _of_folder(path: Path, named: str) -> Records:
    """Classes that are kept as numbers beside their names (ClassLabel) are names; -1, no label, is None."""
    if not (path / FOLDER).is_file():
        splits = list(splits_of(path))
        hint = f"its splits: {', '.join(splits)}" if splits else f"one of `Dataset.save_to_disk` has a {FOLDER}"
        raise UserError(f"{named}: a folder, and none that the package datasets keeps rows in", hint)
    library = needed("datasets", f"{named}: reading a folder of datasets needs this package")
    rows = library.load_from_disk(str(path))
    names = {name: kind.names for name, kind in rows.features.items() if isinstance(kind, library.ClassLabel)}
    made = []
    for number, row in enumerate(rows, 1):
        for column, labels in names.items():
            row[column] = labels[row[column]] if row[column] is not None and row[column] >= 0 else None
        made.append((number, row))
    return made


def text_in(path: Path, named: str) -> str:
    """The content of a text file in UTF-8, with \\n at the end of lines. UserError for one that is not there, or in another encoding."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise UserError(f"{named}: there is no such file") from None
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{named}: not a text in UTF-8 (line {number})", "save it in UTF-8") from None


def _json_lines(path: Path, named: str) -> Records:
    made: Records = []
    for number, line in enumerate(text_in(path, named).split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path} line {number}: no JSON: {error}", "each line is one {...}") from None
            if not isinstance(record, dict):
                raise UserError(f"{path} line {number}: a {type(record).__name__}, expected {{...}}")
            made.append((number, record))
    if not made:
        raise UserError(f"{named} is empty")
    return made
