"""Texts of the user's own with several labels each, from files (text/rows.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.source import TRAIN
from kdrun.domains.text.rows import Columns, TextRows, joined, read_files
from kdrun.domains.text_labels.source import LabelledTexts
from kdrun.problems import UserError, closest, listed

TARGETS = ("labelled_texts",)

YES, NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no")


def labelled_texts(
    root: str | Path | None = None,
    text: str | list[str] = "text",
    label: str | list[str] = "labels",
    split: str | None = None,
    val_root: str | Path | None = None,
    test_root: str | Path | None = None,
    empty: str = "stop",
    cache: str | Path | None = None,
) -> LabelledTexts:
    """Texts and their labels of a file; the keys are those of text.files.text_file but for label: a column of labels with a bar between
    them ("red|small", or a list in JSONL), or several columns, each a label, of 1 (true, yes) and 0 (false, no, empty). A row without any
    label is one to which none applies.

    Raises UserError with lines of the file as text_file does, also for a label that no training row has.
    """
    if root is None:
        raise UserError("data=csv_labels needs data.root=FILE, with a column of texts and one of labels")
    columns = Columns.of(text, label, split)
    roots = {"root": root, "val_root": val_root, "test_root": test_root}
    files, notes = read_files(roots, columns, empty, cache, unlabelled=True)
    sets = [_of_columns(rows, columns.label) if len(columns.label) > 1 else _of_cells(rows) for rows in files]
    classes = columns.label if len(columns.label) > 1 else _known(files, sets)
    places = {name: place for place, name in enumerate(classes)}
    y = np.zeros((sum(map(len, sets)), len(classes)), np.float32)
    for row, names in enumerate(names for one in sets for names in one):
        y[row, [places[name] for name in names]] = 1
    _check(y, files, classes)
    return joined(files, y, columns, LabelledTexts, classes=tuple(classes), notes=notes)


labelled_texts.reads = ("root", "val_root", "test_root")


def _of_cells(rows: TextRows) -> list[list[str]]:
    """The labels in each cell of one column."""
    found = []
    for cell in rows.labels[0]:
        names = _listed(cell) if cell.startswith("[") else cell.split("|")
        found.append(list(dict.fromkeys(name for one in names if (name := str(one).strip()))))
    return found


def _listed(cell: str) -> list[Any]:
    """What a list in JSON holds; of a cell that only begins like one, as others."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell.split("|")


def _of_columns(rows: TextRows, names: tuple[str, ...]) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in rows.numbers]
    for name, cells in zip(names, rows.labels, strict=True):
        wrong = [place for place, cell in enumerate(cells) if cell.lower() not in (*YES, *NO)]
        if wrong:
            raise UserError(
                f"{rows.path}: {cells[wrong[0]]!r} in column {name}, in {rows.where(wrong)}: neither 1 nor 0",
                "labels by their names stand in one column, with a bar between them: data.label=COLUMN",
            )
        for place, cell in enumerate(cells):
            if cell.lower() in YES:
                found[place].append(name)
    return found


def _known(files: list[TextRows], sets: list[list[list[str]]]) -> list[str]:
    """The labels of training, sorted. UserError for one that no training row has."""
    pairs = list(zip(files, sets, strict=True))
    known = {
        name
        for rows, one in pairs
        for names, part in zip(one, rows.parts, strict=True)
        if part == TRAIN
        for name in names
    }
    for rows, one in pairs:
        wrong = [place for place, names in enumerate(one) if not known.issuperset(names)]
        if wrong:
            label = next(name for name in one[wrong[0]] if name not in known)
            same = [place for place in wrong if label in one[place]]
            raise UserError(
                f"{rows.path}: label {label!r} in {rows.where(same)} is in no training row{closest(label, known)}",
                f"training has: {listed(sorted(known), 12)}",
            )
    return sorted(known)


def _check(y: np.ndarray, files: list[TextRows], classes: list[str] | tuple[str, ...]) -> None:
    """UserError where there is nothing to learn of a label."""
    training = np.array([part for rows in files for part in rows.parts]) == TRAIN
    counts = y[training].sum(0) if len(classes) else np.zeros(0)
    if not len(classes) or not counts.all():
        what = (
            f"label {classes[int(np.argmin(counts))]!r} is of no training row" if len(classes) else "no row has a label"
        )
        raise UserError(f"{files[0].path}: {what}")
