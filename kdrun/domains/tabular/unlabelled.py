"""Rows of a table of which nobody has measured the target: a CSV file with the columns of the features."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from kdrun.data.csv_table import lines, read_csv
from kdrun.data.source import TRAIN
from kdrun.domains.tabular.source import Table
from kdrun.problems import UserError

TARGETS = ("unlabelled_rows",)


def unlabelled_rows(root: str | Path | None = None, like: Table | None = None) -> Table:
    """float32 [N, F] of a CSV file whose header names the features of `like`, in any order; other columns are not read.

    Raises UserError for a feature without a column, and naming the lines of cells that are no finite numbers.
    """
    if root is None or like is None:
        raise UserError("unlabelled_rows reads the file of data.unlabelled=FILE, beside a table with targets")
    table = read_csv(Path(root), "unlabelled")
    columns = [name.lower() for name in like.features]
    table.need(columns, f"its first line names the features of {like.name}")
    cells = [[cells[name] for name in columns] for _, cells in table.rows]
    wrong = [line for (line, _), row in zip(table.rows, cells, strict=True) if not all(map(is_finite, row))]
    if wrong:
        raise UserError(f"data.unlabelled={root}: cells that are no numbers in {lines(wrong)}")
    count = len(cells)
    rows = np.array(cells, np.float32).reshape(count, len(columns))
    return Table(
        x=rows,
        y=np.zeros(count, np.float32),
        split=np.full(count, TRAIN, np.int8),
        ids=np.arange(count),
        features=like.features,
        target=like.target,
        name=Path(root).name,
        source_hash=hashlib.sha256(rows.tobytes()).hexdigest(),
        determined=True,
    )


unlabelled_rows.reads = ("root",)


def is_finite(cell: str) -> bool:
    """Whether a cell is a finite number."""
    try:
        return bool(np.isfinite(np.float32(float(cell))))
    except ValueError:
        return False
