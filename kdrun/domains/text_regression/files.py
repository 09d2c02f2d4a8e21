"""Texts of the user's own with a number each, from files (text/rows.py)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kdrun.domains.text.rows import Columns, joined, read_files
from kdrun.domains.text_regression.source import NumberedTexts
from kdrun.problems import UserError

TARGETS = ("text_numbers",)

LARGEST = float(np.finfo(np.float32).max)


def text_numbers(
    root: str | Path | None = None,
    text: str | list[str] = "text",
    label: str = "label",
    split: str | None = None,
    val_root: str | Path | None = None,
    test_root: str | Path | None = None,
    empty: str = "stop",
    cache: str | Path | None = None,
) -> NumberedTexts:
    """Texts and numbers of a file; the keys are those of text.files.text_file, label the column of the numbers.

    Raises UserError with lines of the file as text_file does, and for what is no finite number.
    """
    if root is None:
        raise UserError("data=csv_numbers needs data.root=FILE, with a column of texts and one of numbers")
    columns = Columns.of(text, label, split)
    files, notes = read_files({"root": root, "val_root": val_root, "test_root": test_root}, columns, empty, cache)
    for rows in files:
        wrong = [place for place, cell in enumerate(rows.labels[0]) if not math.isfinite(_number(cell))]
        if wrong:
            raise UserError(
                f"{rows.path}: {rows.labels[0][wrong[0]]!r} in column {label} is no number, in {rows.where(wrong)}",
                "classes in the place of numbers: data=csv",
            )
    y = np.array([_number(cell) for rows in files for cell in rows.labels[0]], np.float32)
    return joined(files, y, columns, NumberedTexts, classes=(), notes=notes, target=label)


text_numbers.reads = ("root", "val_root", "test_root")


def _number(cell: str) -> float:
    """NaN for what is none, or too large for float32; a comma may be the decimal mark, as spreadsheets of many languages write it."""
    try:
        number = float(cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell)
    except ValueError:
        return math.nan
    return number if abs(number) <= LARGEST else math.nan
