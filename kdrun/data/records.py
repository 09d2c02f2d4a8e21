"""Rows of values by column, of whatever kind of file or folder they come in: CSV, TSV, JSONL, Parquet, and what the package `datasets` keeps on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdrun.data.csv_table import csv_rows, opened
from kdrun.data.source import VAL, part_of
from kdrun.optional import needed
from kdrun.problems import UserError, listed

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""What files of rows end with."""
FOLDER, FOLDERS = "dataset_info.json", "dataset_dict.json"
"""What lies in a folder of `Dataset.save_to_disk`, and of `DatasetDict.save_to_disk`."""

Records = Iterator[tuple[int, dict[str, Any]]]
"""(line of a text file, else number of the row from 1; its values by column), one after the other as they are asked for."""
TOGETHER = 1_000
"""Rows of a Parquet file or a folder of `datasets` that are read together."""
CHARACTERS = 1 << 20
"""Of a text, about how many are looked at together for separators."""


def records(path: Path, named: str) -> Records:
    """The rows of a file NAME.csv, .tsv, .jsonl, .ndjson, .json (an object in each line) or .parquet, or of a folder of `datasets`.

    named: what messages call it. Raises UserError, with lines, for a file that cannot be read; of what is wrong further down when its turn
    comes. What was read before is not held, so a file may be larger than memory.
    """
    kind = path.suffix.lower()
    if path.is_dir():
        return _of_folder(path, named)
    if kind in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path, named)
    if kind == ".parquet":
        if not path.is_file():
            raise UserError(f"{named}: there is no such file")
        return _parquet(path, named)
    return _csv(path, named)


def _csv(path: Path, named: str) -> Records:
    with opened(path, named) as file:
        yield from csv_rows(file, path, named)[1]


def _parquet(path: Path, named: str) -> Records:
    reader = needed("pyarrow.parquet", f"{named}: reading Parquet needs pyarrow")
    try:
        with reader.ParquetFile(path) as file:
            batches = file.iter_batches(TOGETHER)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{named}: no Parquet file: {(str(error).splitlines() or [''])[0]}") from None


def splits_of(path: Path) -> dict[str, Path]:
    """Name -> folder of the splits that a folder of `DatasetDict.save_to_disk` holds; {} for anything else."""
    try:
        names = json.loads((path / FOLDERS).read_bytes())["splits"]
    except (OSError, ValueError, KeyError):
        return {}
    return {str(name): path / str(name) for name in names}


def plain(value: Any, where: str) -> Any:
    """The value of a cell that has to be a text or a number, as it is. where: what messages call the cell. UserError for a list or {...}."""
    if isinstance(value, list | dict):
        raise UserError(f"{where}: {'a list' if isinstance(value, list) else '{...}'}, expected a text")
    return value


def _of_folder(path: Path, named: str) -> Records:
    """Classes that are kept as numbers beside their names (ClassLabel) are names; -1, no label, is None."""
    if not (path / FOLDER).is_file():
        splits = list(splits_of(path))
        hint = f"its splits: {', '.join(splits)}" if splits else f"one of `Dataset.save_to_disk` has a {FOLDER}"
        raise UserError(f"{named}: a folder, and none that the package datasets keeps rows in", hint)
    library = needed("datasets", f"{named}: reading a folder of datasets needs this package")
    rows = library.load_from_disk(str(path))
    names = {name: kind.names for name, kind in rows.features.items() if isinstance(kind, library.ClassLabel)}
    return _named(rows, names)


def _named(rows: Any, names: dict[str, list[str]]) -> Records:
    batches = (batch.to_pylist() for batch in rows.with_format("arrow").iter(TOGETHER))
    for number, row in enumerate((row for batch in batches for row in batch), 1):
        for column, labels in names.items():
            row[column] = labels[row[column]] if row[column] is not None and row[column] >= 0 else None
        yield number, row


def split_folders(path: Path, key: str, part: int | None) -> list[tuple[Path, int | None]]:
    """(path, its split) of a file; of a folder of several splits, each with the split that its name says. None: not known."""
    folders = splits_of(path)
    if not folders or part is not None:
        return [(folders.get("validation" if part == VAL else "test", path) if folders else path, part)]
    wrong = [name for name in folders if part_of(name) is None]
    if wrong:
        raise UserError(
            f"data.{key}={path}: which split is {wrong[0]}? it has {listed(folders)}",
            f"one of them: data.{key}={folders[wrong[0]]}, and data.val_root, data.test_root",
        )
    return [(folder, part_of(name)) for name, folder in folders.items()]


def text_in(path: Path, named: str) -> str:
    """The content of a text file in UTF-8, with \\n at the end of lines. UserError for one that is not there, or in another encoding."""
    return "".join(lines_in(path, named))


def lines_in(path: Path, named: str) -> Iterator[str]:
    """The same line by line, with \\n at the end of each but the last."""
    with opened(path, named) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{named}: not a text in UTF-8 (line {number})", "save it in UTF-8") from None
            yield text.replace("\r\n", "\n")


def parts_in(path: Path, named: str, separator: str) -> Iterator[str]:
    """The parts of such a text between separators."""
    lines: list[str] = []
    size, enough = 0, CHARACTERS
    for line in lines_in(path, named):
        lines.append(line)
        size += len(line)
        if size >= enough:
            *parts, rest = "".join(lines).split(separator)
            yield from parts
            lines, size = [rest], len(rest)
            enough = max(CHARACTERS, 2 * size)
    yield from "".join(lines).split(separator)


def _constant(name: str) -> float | None:
    """`Infinity` as a number; None for `NaN`, which pandas writes where nothing is."""
    return None if name == "NaN" else float(name)


def _json_lines(path: Path, named: str) -> Records:
    empty = True
    for number, line in enumerate(lines_in(path, named), 1):
        if line.strip():
            empty = False
            try:
                record = json.loads(line, parse_constant=_constant)
                if "\\ud" in line.lower():  # halves of characters
                    json.dumps(record, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"{path} line {number}: half a character (a surrogate \\ud... without its other)"
                ) from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {number}: no JSON: {error}", "each line is one {...}") from None
            if not isinstance(record, dict):
                raise UserError(f"{path} line {number}: a {type(record).__name__}, expected {{...}}")
            yield number, record
    if empty:
        raise UserError(f"{named} is empty")
