"""Texts of the user's own: CSV (also TSV, and as Excel writes it), JSONL or Parquet, a column of texts and one of labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdrun.data.csv_table import CsvTable, csv_file, lines
from kdrun.data.folders import composed
from kdrun.data.source import SPLITS, TEST, TRAIN, VAL, part_of, text_hash
from kdrun.domains.text.source import Texts, digests
from kdrun.optional import needed
from kdrun.problems import UserError, closest, listed

TARGETS = ("text_file", "unlabelled_texts")

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""What files of texts end with; of other files kdrun predict reads the lines."""


@dataclass(frozen=True)
class _Rows:
    """The rows of one file. numbers: lines of the file; texts: one list for each column of texts."""

    path: Path
    numbers: list[int]
    texts: list[list[str]]
    labels: list[str]
    parts: list[int]


def text_file(
    root: str | Path | None = None,
    text: str | list[str] = "text",
    label: str = "label",
    split: str | None = None,
    val_root: str | Path | None = None,
    test_root: str | Path | None = None,
    empty: str = "stop",
    *,
    cache: str | Path | None = None,
) -> Texts:
    """Texts and classes of a file NAME.csv, .tsv, .jsonl or .parquet. An id is the position of the row in its file, those of val_root and
    test_root behind.

    text: column of the texts; [first, second] for pairs. label: column of the classes, which are its different values.
    split: column that says train, val or test, null: kdrun holds texts out. val_root, test_root: files like root for these splits.
    empty: what is done with rows without text or label: stop is an error; drop leaves them out.

    Raises UserError with rows of the file for a column that is not there, rows without text or label, a class that only val or test has,
    and a file in another encoding than UTF-8.
    """
    if root is None:
        raise UserError("data=csv needs data.root=FILE, with a column of texts and one of labels")
    columns = [text] if isinstance(text, str) else list(text)
    if not 1 <= len(columns) <= 2 or not all(isinstance(name, str) for name in columns):
        raise UserError(f"data.text={text}: one column, or two for pairs of texts: data.text=[FIRST,SECOND]")
    if empty not in ("stop", "drop"):
        raise UserError(f"data.empty={empty}: stop or drop{closest(empty, ('stop', 'drop'))}")
    files = [_read(Path(root).expanduser(), "root", columns, label, split)]
    for key, path, part in (("val_root", val_root, VAL), ("test_root", test_root, TEST)):
        if path is not None:
            read = _read(Path(path).expanduser(), key, columns, label, None)
            files.append(_Rows(read.path, read.numbers, read.texts, read.labels, [part] * len(read.numbers)))
    notes, kept = [], []
    for rows in files:
        wrong = _without_text_or_label(rows)
        if wrong and empty == "stop":
            numbers = [rows.numbers[place] for place in wrong]
            raise UserError(
                f"{rows.path}: no text or no label in {len(wrong)} rows: {lines(numbers)}",
                "mend the file, or data.empty=drop leaves them out; rows without labels: data.unlabelled=FILE",
            )
        notes += [f"{len(wrong)} rows of {rows.path.name} without text or label left out"] if wrong else []
        kept.append(np.setdiff1d(np.arange(len(rows.numbers)), wrong).tolist())
    classes = _classes(files, kept)
    return _joined(files, kept, classes, len(columns) == 2, tuple(columns), tuple(notes))


def unlabelled_texts(
    root: str | Path | None = None, like: Texts | None = None, *, cache: str | Path | None = None
) -> Texts:
    """Texts without labels, as `data.unlabelled=FILE` reads them: the columns of `like` of a CSV, JSONL or Parquet file, or the lines of
    a NAME.txt. Rows without text are left out."""
    if root is None or like is None:
        raise UserError("unlabelled_texts reads the file of data.unlabelled=FILE, beside texts with labels")
    path = Path(root).expanduser()
    if path.suffix.lower() == ".txt":
        texts = [[line.strip() for line in path.read_text("utf-8-sig", errors="strict").splitlines()]]
        if like.pairs:
            raise UserError(f"data.unlabelled={root}: {like.name} has pairs of texts, and a .txt file has none")
    else:
        texts = _read(path, "unlabelled", list(like.asked) or ["text"], None, None).texts
    rows = [row for row in zip(*texts, strict=True) if all(row)]
    first = tuple(row[0] for row in rows)
    second = tuple(row[1] for row in rows) if like.pairs else None
    return Texts(
        x=digests(first, second),
        y=np.zeros(len(rows), np.int64),
        split=np.full(len(rows), TRAIN, np.int8),
        ids=np.arange(len(rows)),
        classes=(),
        name=path.name,
        source_hash=text_hash(json.dumps(row) for row in rows),
        texts=first,
        seconds=second,
    )


def _read(path: Path, key: str, columns: Sequence[str], label: str | None, split: str | None) -> _Rows:
    table = read_table(path, f"data.{key}={path}")
    names = columns_of(table, columns, "data.text=COLUMN names that of the texts")
    if label is not None:
        label = composed(label).strip().lower()
        table.need([label], "data.label=COLUMN names that of the classes")
    parts = [TRAIN] * len(table.rows)
    if split is not None:
        split = composed(split).strip().lower()
        table.need([split], "data.split=COLUMN names that of train, val and test")
        found = [part_of(cells[split]) for _, cells in table.rows]
        wrong = [number for (number, _), part in zip(table.rows, found, strict=True) if part is None]
        if wrong:
            raise UserError(f"{path}: column {split} says neither {listed(SPLITS)} in {lines(wrong)}")
        parts = [TRAIN if part is None else part for part in found]
    return _Rows(
        path,
        [number for number, _ in table.rows],
        [[cells[name] for _, cells in table.rows] for name in names],
        ["" if label is None else cells[label] for _, cells in table.rows],
        parts,
    )


def columns_of(table: CsvTable, columns: Sequence[str], hint: str) -> list[str]:
    """The names of columns as the table has them. UserError, with the hint, for one that is not there."""
    names = [composed(name).strip().lower() for name in columns]
    table.need(names, hint)
    return names


def read_table(path: Path, named: str) -> CsvTable:
    """The rows of a file by what its name ends with. named: what messages call it."""
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path, named)
    if kind == ".parquet":
        if not path.is_file():
            raise UserError(f"{named}: there is no such file")
        why = f"{named}: reading Parquet needs pyarrow"
        needed("pyarrow", why)
        frame = needed("pandas", why).read_parquet(path)
        return _of_records(path, [(n, dict(row)) for n, row in enumerate(frame.to_dict("records"), 1)], named)
    return csv_file(path, named)


def _json_lines(path: Path, named: str) -> CsvTable:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{named}: there is no such file") from None
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{named}: not a text in UTF-8 (line {number})", "save it in UTF-8") from None
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path} line {number}: no JSON: {error}", "each line is one {...}") from None
            if not isinstance(record, dict):
                raise UserError(f"{path} line {number}: a {type(record).__name__}, expected {{...}}")
            records.append((number, record))
    return _of_records(path, records, named)


def _of_records(path: Path, records: list[tuple[int, dict]], named: str) -> CsvTable:
    if not records:
        raise UserError(f"{named} is empty")
    columns = tuple(dict.fromkeys(composed(str(name)).strip().lower() for _, record in records for name in record))
    rows = []
    for number, record in records:
        known = {composed(str(name)).strip().lower(): _cell(value) for name, value in record.items()}
        rows.append((number, {**dict.fromkeys(columns, ""), **known}))
    return CsvTable(path, columns, tuple(rows))


def _cell(value: object) -> str:
    """A value of JSON or Parquet as the cell of a CSV file would have it."""
    return (
        "" if value is None else composed(value if isinstance(value, str) else json.dumps(value, default=str)).strip()
    )


def _without_text_or_label(rows: _Rows) -> list[int]:
    columns = zip(rows.labels, *rows.texts, strict=True)
    return [place for place, cells in enumerate(columns) if not all(cells)]


def _classes(files: list[_Rows], kept: list[list[int]]) -> tuple[str, ...]:
    """The different labels, sorted (numbers by their value). UserError for one that no training row has."""
    seen = Counter(
        (rows.labels[place], rows.parts[place] == TRAIN)
        for rows, places in zip(files, kept, strict=True)
        for place in places
    )
    known = {label for label, training in seen if training}
    for rows, places in zip(files, kept, strict=True):
        wrong = [place for place in places if rows.labels[place] not in known]
        if wrong:
            label = rows.labels[wrong[0]]
            same = [rows.numbers[place] for place in wrong if rows.labels[place] == label]
            others = len({rows.labels[place] for place in wrong}) - 1
            raise UserError(
                f"{rows.path}: label {label!r} in {lines(same)} is in no training row{closest(label, known)}"
                + (f"; so are {others} others" if others else ""),
                f"training has: {listed(sorted(known), 12)}",
            )
    return tuple(sorted(known, key=_by_value))


def _by_value(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _joined(
    files: list[_Rows],
    kept: list[list[int]],
    classes: tuple[str, ...],
    pairs: bool,
    asked: tuple[str, ...],
    notes: tuple[str, ...],
) -> Texts:
    numbers = {label: number for number, label in enumerate(classes)}
    chosen = [(rows, place) for rows, places in zip(files, kept, strict=True) for place in places]
    starts = dict(zip(map(id, files), np.cumsum([0, *(len(rows.numbers) for rows in files)]), strict=False))
    texts = tuple(rows.texts[0][place] for rows, place in chosen)
    seconds = tuple(rows.texts[1][place] for rows, place in chosen) if pairs else None
    return Texts(
        x=digests(texts, seconds),
        y=np.array([numbers[rows.labels[place]] for rows, place in chosen], np.int64),
        split=np.array([rows.parts[place] for rows, place in chosen], np.int8),
        ids=np.array([starts[id(rows)] + place for rows, place in chosen], np.int64),
        classes=classes,
        name=files[0].path.name,
        source_hash=text_hash(json.dumps(row) for row in zip(texts, seconds or texts, strict=True)),
        texts=texts,
        seconds=seconds,
        asked=asked,
        notes=notes,
    )
