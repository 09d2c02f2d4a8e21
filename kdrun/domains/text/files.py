"""Texts of the user's own with a class each, or without labels, from files (rows.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdrun.data.records import lines_in
from kdrun.data.source import TRAIN, text_hash
from kdrun.data.stored import Spool
from kdrun.domains.text.rows import Columns, TextRows, joined, read_files, spooled, table_rows
from kdrun.domains.text.source import Texts, digests
from kdrun.problems import UserError, closest, listed

TARGETS = ("text_file", "unlabelled_texts")


def text_file(
    root: str | Path | None = None,
    text: str | list[str] = "text",
    label: str = "label",
    split: str | None = None,
    val_root: str | Path | None = None,
    test_root: str | Path | None = None,
    empty: str = "stop",
    cache: str | Path | None = None,
) -> Texts:
    """Texts and classes of a file NAME.csv, .tsv, .jsonl or .parquet, or of a folder of `datasets`. An id is the position of the row in
    its file, those of val_root and test_root behind.

    text: column of the texts; [first, second] for pairs. label: column of the classes, which are its different values.
    split: column that says train, val or test, null: kdrun holds texts out. val_root, test_root: files like root for these splits.
    empty: what is done with rows without text or label: stop is an error; drop leaves them out.
    cache: folder for texts that are many, until they are kept.

    Raises UserError with rows of the file for a column that is not there, rows without text or label, a class that only val or test has,
    and a file in another encoding than UTF-8.
    """
    if root is None:
        raise UserError("data=csv needs data.root=FILE, with a column of texts and one of labels")
    columns = Columns.of(text, label, split)
    files, notes = read_files({"root": root, "val_root": val_root, "test_root": test_root}, columns, empty, cache)
    classes = _classes(files)
    numbers = {name: number for number, name in enumerate(classes)}
    y = np.fromiter((numbers[cell] for rows in files for cell in rows.labels[0]), np.int64)
    return joined(files, y, columns, classes=classes, notes=notes)


text_file.reads = ("root", "val_root", "test_root")


def unlabelled_texts(
    root: str | Path | None = None, like: Texts | None = None, cache: str | Path | None = None
) -> Texts:
    """Texts without labels, as `data.unlabelled=FILE` reads them: the columns of `like` of a CSV, JSONL or Parquet file, or the lines of
    a NAME.txt. Rows without text are left out."""
    if root is None or like is None:
        raise UserError("unlabelled_texts reads the file of data.unlabelled=FILE, beside texts with labels")
    path, named = Path(root).expanduser(), f"data.unlabelled={root}"
    if path.suffix.lower() == ".txt":
        if like.pairs:
            raise UserError(f"{named}: {like.name} has pairs of texts, and a .txt file has none")
        found: Iterator[list[str]] = ([line.strip()] for line in lines_in(path, named))
    else:
        asked = like.asked or ("text",)
        found = (cells for _, cells in table_rows(path, named, [(asked, "data.text=COLUMN names that of the texts")]))
    spools = [Spool(spooled(cache)) for _ in range(1 + like.pairs)]
    for cells in found:
        if all(cells):
            for spool, cell in zip(spools, cells, strict=True):
                spool.append(cell)
    texts, *second = (spool.rows() for spool in spools)
    seconds = second[0] if second else None
    count = len(texts)
    return replace(
        like,
        x=digests(texts, seconds),
        y=np.zeros((count, *like.y.shape[1:]), like.y.dtype),
        split=np.full(count, TRAIN, np.int8),
        ids=np.arange(count),
        classes=(),
        name=path.name,
        source_hash=text_hash(json.dumps(row) for row in zip(*filter(None, (texts, seconds)), strict=True)),
        texts=texts,
        seconds=seconds,
        places=None,
        notes=(),
    )


unlabelled_texts.reads = ("root",)


def _classes(files: list[TextRows]) -> tuple[str, ...]:
    """The different labels of training, sorted (numbers by their value). UserError for one that no training row has."""
    known = {label for rows in files for label, part in zip(rows.labels[0], rows.parts, strict=True) if part == TRAIN}
    for rows in files:
        wrong = [place for place, label in enumerate(rows.labels[0]) if label not in known]
        if wrong:
            label = rows.labels[0][wrong[0]]
            same = [place for place in wrong if rows.labels[0][place] == label]
            others = len({rows.labels[0][place] for place in wrong}) - 1
            raise UserError(
                f"{rows.path}: label {label!r} in {rows.where(same)} is in no training row{closest(label, known)}"
                + (f"; so are {others} others" if others else ""),
                f"training has: {listed(sorted(known), 12)}",
            )
    return tuple(sorted(known, key=_by_value))


def _by_value(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
