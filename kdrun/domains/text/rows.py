"""Rows of texts in files of the user's own: CSV (also TSV, and as Excel writes it), JSONL, Parquet or a folder of `datasets`. What the
labels mean is up to who reads them (files.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.csv_table import CsvTable, csv_file, lines
from kdrun.data.folders import composed
from kdrun.data.records import TABLES, Records, records, split_folders
from kdrun.data.source import SPLITS, TEST, TRAIN, VAL, part_of, text_hash
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
        return cls(tuple(texts), (label,) if isinstance(label, str) else tuple(label), split)


@dataclass(frozen=True)
class TextRows:
    """The rows of one file.

    numbers: lines of the file; ids: of the samples, their positions in the file with those of files before it; texts, labels: one list
    for each column; parts: TRAIN, VAL or TEST.
    """

    path: Path
    numbers: list[int]
    ids: list[int]
    texts: list[list[str]]
    labels: list[list[str]]
    parts: list[int]

    def where(self, places: Sequence[int]) -> str:
        """Lines of the rows at these places, for people."""
        return lines(self.numbers[place] for place in places)

    def at(self, places: Sequence[int]) -> TextRows:
        """The rows at these places alone."""

        def chosen(column: list[Any]) -> list[Any]:
            return [column[place] for place in places]

        texts, labels = ([chosen(column) for column in columns] for columns in (self.texts, self.labels))
        return TextRows(self.path, chosen(self.numbers), chosen(self.ids), texts, labels, chosen(self.parts))


def read_files(
    roots: Mapping[str, str | Path | None], columns: Columns, empty: str, unlabelled: bool = False
) -> tuple[list[TextRows], tuple[str, ...]]:
    """(rows of each file, notes of what was left out). roots: data key -> path, in the order root, val_root, test_root.

    Each split in a folder of `DatasetDict.save_to_disk` is a file. empty: stop or drop, for rows without text or label; unlabelled: rows
    may have no label. Raises UserError with the lines of what cannot be used.
    """
    if empty not in ("stop", "drop"):
        raise UserError(f"data.empty={empty}: stop or drop{closest(empty, ('stop', 'drop'))}")
    files: list[TextRows] = []
    for (key, root), part in zip(roots.items(), (None, VAL, TEST), strict=True):
        if root is not None:
            for path, split in split_folders(Path(root).expanduser(), key, part):
                first = sum(len(rows.numbers) for rows in files)
                files.append(_read(path, f"data.{key}={path}", columns, split, first))
    kept, notes = [], []
    for rows in files:
        cells = zip(*rows.texts, *([] if unlabelled else rows.labels), strict=True)
        wrong = [place for place, row in enumerate(cells) if not all(row)]
        if wrong and empty == "stop":
            raise UserError(
                f"{rows.path}: no text or no label in {count_of_rows(len(wrong))}: {rows.where(wrong)}",
                "mend the file, or data.empty=drop leaves them out; rows without labels: data.unlabelled=FILE",
            )
        if wrong:
            notes.append(
                f"{count_of_rows(len(wrong))} of {rows.path.name} without text or label left out: {rows.where(wrong)}"
            )
        kept.append(rows.at(sorted(set(range(len(rows.numbers))) - set(wrong))))
    return kept, tuple(notes)


def joined(files: Sequence[TextRows], y: np.ndarray, columns: Columns, kind: type[Texts] = Texts, **more: Any) -> Texts:
    """The source of the rows of all files. y: their targets; more: further fields of the source."""
    texts, *second = (tuple(text for rows in files for text in rows.texts[place]) for place in range(len(columns.text)))
    seconds = second[0] if second else None
    return kind(
        x=digests(texts, seconds),
        y=y,
        split=np.array([part for rows in files for part in rows.parts], np.int8),
        ids=np.array([number for rows in files for number in rows.ids], np.int64),
        name=files[0].path.name,
        source_hash=text_hash(json.dumps(row) for row in zip(texts, seconds or texts, strict=True)),
        texts=texts,
        seconds=seconds,
        asked=columns.text,
        places=tuple(
            f"{rows.path.name} line {number}" if len(files) > 1 else f"line {number}"
            for rows in files
            for number in rows.numbers
        ),
        **more,
    )


def _read(path: Path, named: str, columns: Columns, part: int | None, first: int) -> TextRows:
    """part: the split of all rows; None: what the column of splits says, else training."""
    table = read_table(path, named)
    texts = names_in(table, columns.text, "data.text=COLUMN names that of the texts")
    labels = names_in(table, columns.label, "data.label=COLUMN names that of the labels")
    parts = [TRAIN if part is None else part] * len(table.rows)
    if columns.split is not None and part is None:
        (split,) = names_in(table, [columns.split], "data.split=COLUMN names that of train, val and test")
        said = [part_of(cells[split]) for _, cells in table.rows]
        wrong = [number for (number, _), known in zip(table.rows, said, strict=True) if known is None]
        if wrong:
            raise UserError(f"{path}: column {split} says neither {listed(SPLITS)} in {lines(wrong)}")
        parts = [TRAIN if known is None else known for known in said]
    return TextRows(
        path,
        [number for number, _ in table.rows],
        list(range(first, first + len(table.rows))),
        [[cells[name] for _, cells in table.rows] for name in texts],
        [[cells[name] for _, cells in table.rows] for name in labels],
        parts,
    )


def names_in(table: CsvTable, columns: Sequence[str], hint: str) -> list[str]:
    """The names of columns as the table has them. UserError, with the hint, for one that is not there."""
    names = [composed(name).strip().lower() for name in columns]
    table.need(names, hint)
    return names


def read_table(path: Path, named: str) -> CsvTable:
    """The rows of a file or folder (see data.records) as cells of text. named: what messages call it."""
    of_values = path.is_dir() or path.suffix.lower() in set(TABLES) - {".csv", ".tsv"}
    return _cells(path, records(path, named), named) if of_values else csv_file(path, named)


def _cells(path: Path, records: Records, named: str) -> CsvTable:
    rows = list(records)
    if not rows:
        raise UserError(f"{named} is empty")
    columns = tuple(dict.fromkeys(composed(str(name)).strip().lower() for _, record in rows for name in record))
    made = []
    for number, record in rows:
        known = {composed(str(name)).strip().lower(): _cell(value) for name, value in record.items()}
        made.append((number, {**dict.fromkeys(columns, ""), **known}))
    return CsvTable(path, columns, tuple(made))


def _cell(value: object) -> str:
    """A value of JSON or Parquet as the cell of a CSV file would have it."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "" if value is None else composed(text).strip()
