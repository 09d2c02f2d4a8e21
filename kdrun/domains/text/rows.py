"""Rows of texts in files of the user's own: CSV (also TSV, and as Excel writes it), JSONL, Parquet or a folder of `datasets`. What the
labels mean is up to who reads them (files.py)."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.csv_table import CsvTable, csv_rows, lines, opened
from kdrun.data.folders import composed
from kdrun.data.records import TABLES, plain, records, split_folders
from kdrun.data.source import SPLITS, TEST, TRAIN, VAL, part_of, text_hash
from kdrun.data.stored import Followed, Spool
from kdrun.domains.text.source import Texts, digests
from kdrun.problems import UserError, closest, count_of_rows, listed


@dataclass(frozen=True)
class Columns:
    """Which columns hold texts (one, or two of pairs), labels and splits; split: None where the file has none."""

    text: tuple[str, ...]
    label: tuple[str, ...]
    split: str | None = None

    @classmethod
    def of(cls, text: str | Sequence[str], label: str | Sequence[str], split: str | None) -> Columns:
        """Of what a config says. UserError for more than two columns of texts."""
        texts = [text] if isinstance(text, str) else list(text)
        if not 1 <= len(texts) <= 2 or not all(isinstance(name, str) for name in texts):
            raise UserError(f"data.text={text}: one column, or two for pairs of texts: data.text=[FIRST,SECOND]")
        labels = [label] if isinstance(label, str) else list(label)
        names = _names([*texts, *labels])
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"column {twice} is named twice by data.text and data.label")
        return cls(tuple(texts), tuple(labels), split)


@dataclass(frozen=True)
class TextRows:
    """The rows of one file that are used.

    numbers: lines of the file; ids: of the samples, their positions in the file with those of files before it; texts, labels: one column
    of cells for each; parts: TRAIN, VAL or TEST; places: what messages call each row. without: lines of rows that lack a text or a label;
    count: all rows of the file.
    """

    path: Path
    numbers: Sequence[int]
    ids: Sequence[int]
    texts: list[Sequence[str]]
    labels: list[list[str]]
    parts: Sequence[int]
    places: Sequence[str]
    without: Sequence[int]
    count: int

    def where(self, places: Sequence[int]) -> str:
        """Lines of the rows at these places, for people."""
        return lines(self.numbers[place] for place in places)


def read_files(
    roots: Mapping[str, str | Path | None],
    columns: Columns,
    empty: str,
    cache: str | Path | None,
    unlabelled: bool = False,
) -> tuple[list[TextRows], tuple[str, ...]]:
    """(rows of each file, notes of what was left out). roots: data key -> path, in the order root, val_root, test_root.

    Each split in a folder of `DatasetDict.save_to_disk` is a file. empty: stop or drop, for rows without text or label; unlabelled: rows
    may have no label. cache: folder for texts that are many, until they are kept. Raises UserError with the lines of what cannot be used.
    """
    if empty not in ("stop", "drop"):
        raise UserError(f"data.empty={empty}: stop or drop{closest(empty, ('stop', 'drop'))}")
    paths = [
        (f"data.{key}={path}", path, split)
        for (key, root), part in zip(roots.items(), (None, VAL, TEST), strict=True)
        if root is not None
        for path, split in split_folders(Path(root).expanduser(), key, part)
    ]
    files: list[TextRows] = []
    for named, path, split in paths:
        first = sum(rows.count for rows in files)
        called = f"{path.name} line" if len(paths) > 1 else "line"
        files.append(_read(path, named, columns, split, unlabelled, (first, called), spooled(cache)))
    notes = []
    for rows in files:
        missing, where = count_of_rows(len(rows.without)), lines(rows.without)
        if rows.without and empty == "stop":
            raise UserError(
                f"{rows.path}: no text or no label in {missing}: {where}",
                "mend the file, or data.empty=drop leaves them out; rows without labels: data.unlabelled=FILE",
            )
        if rows.without:
            notes.append(f"{missing} of {rows.path.name} without text or label left out: {where}")
    if not any(TRAIN in rows.parts for rows in files):
        raise UserError(f"{files[0].path}: none of its {count_of_rows(files[0].count)} can be trained on", *notes)
    return files, tuple(notes)


def joined(files: Sequence[TextRows], y: np.ndarray, columns: Columns, kind: type[Texts] = Texts, **more: Any) -> Texts:
    """The source of the rows of all files. y: their targets; more: further fields of the source."""
    texts, *second = (_whole([rows.texts[place] for rows in files]) for place in range(len(columns.text)))
    seconds = second[0] if second else None
    return kind(
        x=digests(texts, seconds),
        y=y,
        split=np.concatenate([np.array(rows.parts, np.int8) for rows in files]),
        ids=np.concatenate([np.array(rows.ids, np.int64) for rows in files]),
        name=files[0].path.name,
        source_hash=text_hash(json.dumps(row) for row in zip(texts, seconds or texts, strict=True)),
        texts=texts,
        seconds=seconds,
        asked=columns.text,
        places=_whole([rows.places for rows in files]),
        **more,
    )


def _whole(parts: list[Sequence[str]]) -> Sequence[str]:
    return parts[0] if len(parts) == 1 else Followed(*parts)


def spooled(cache: str | Path | None) -> Path | None:
    """The folder for texts that are many, until they are kept."""
    return None if cache is None else Path(cache) / "spooled"


def _read(
    path: Path,
    named: str,
    columns: Columns,
    part: int | None,
    unlabelled: bool,
    told: tuple[int, str],
    folder: Path | None,
) -> TextRows:
    """part: the split of all rows; None: what the column of splits says, else training. told: (id of the first row, what messages say
    before the number of a line); folder: for texts that are many."""
    lists = columns.label if unlabelled else ()
    groups = [
        (columns.text, "data.text=COLUMN names that of the texts"),
        (columns.label, "data.label=COLUMN names that of the labels"),
    ]
    by_column = columns.split is not None and part is None
    if by_column:
        groups.append(((columns.split,), "data.split=COLUMN names that of train, val and test"))
    count, known = len(columns.text), {}
    texts, places = [Spool(folder) for _ in columns.text], Spool(folder)
    labels: list[list[str]] = [[] for _ in columns.label]
    numbers, ids, parts, without, wrong = array("q"), array("q"), array("b"), array("q"), array("q")
    total = 0
    for total, (number, cells) in enumerate(table_rows(path, named, groups, lists), 1):
        split = part_of(cells[-1]) if by_column else TRAIN if part is None else part
        said = cells[count : count + len(columns.label)]
        if split is None:
            wrong.append(number)
        elif not all(cells[:count] if unlabelled else (*cells[:count], *said)):
            without.append(number)
        else:
            for column, cell in zip((*texts, places), (*cells[:count], f"{told[1]} {number}"), strict=True):
                column.append(cell)
            for column, cell in zip(labels, said, strict=True):
                column.append(known.setdefault(cell, cell))  # one text for each label, however many rows have it
            numbers.append(number)
            ids.append(told[0] + total - 1)
            parts.append(split)
    if wrong:
        (name,) = _names((columns.split,))
        raise UserError(f"{path}: column {name} says neither {listed(SPLITS)} in {lines(wrong)}")
    return TextRows(path, numbers, ids, [each.rows() for each in texts], labels, parts, places.rows(), without, total)


def _names(columns: Sequence[str]) -> list[str]:
    """Columns by the names that tables have them by."""
    return [composed(name).strip().lower() for name in columns]


def table_rows(
    path: Path, named: str, groups: Sequence[tuple[Sequence[str], str]], lists: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells in these columns) of the rows of a file or folder (see data.records), as they are asked for.

    named: what messages call it; groups: (columns, the hint of the error for one that is not there); lists: columns whose values may be
    lists, in JSON. Raises UserError as data.records does, and for a column that is not there.
    """
    names = [_names(columns) for columns, _ in groups]
    wanted = [name for group in names for name in group]

    def check(columns: Iterable[str]) -> None:
        for group, (_, hint) in zip(names, groups, strict=True):
            CsvTable(path, tuple(columns), ()).need(group, hint)

    if not path.is_dir() and path.suffix.lower() not in set(TABLES) - {".csv", ".tsv"}:
        with opened(path, named) as file:
            columns, rows = csv_rows(file, path, named)
            check(columns)
            for number, cells in rows:
                yield number, [cells[name] for name in wanted]
        return
    seen: dict[str, None] = {}
    waiting: list[tuple[int, list[str]]] = []
    number = None
    for number, record in records(path, named):
        known = {composed(str(name)).strip().lower(): value for name, value in record.items()}
        seen.update(dict.fromkeys(known))
        for name in set(wanted).difference(_names(lists)):
            plain(known.get(name), f"{path} line {number}, column {name}")
        waiting.append((number, [_cell(known.get(name)) for name in wanted]))
        if seen.keys() >= set(wanted):  # until then a column may be missing
            yield from waiting
            waiting = []
    if number is None:
        raise UserError(f"{named} is empty")
    check(seen)


def _cell(value: object) -> str:
    """A value of JSON or Parquet as the cell of a CSV file would have it."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "" if value is None else composed(text).strip()
