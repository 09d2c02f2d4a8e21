"""Rows of the user's own for a trained network: CSV with the columns of its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.csv_table import parse_csv
from kdrun.domains.inputs import Reader, UserInput, content_of
from kdrun.domains.tabular.spec import TableSpec
from kdrun.domains.tabular.unlabelled import is_finite


class RowReader(Reader):
    """A header that names the features, in any order, then a row each; further columns are not read."""

    def __init__(self, spec: TableSpec, config: Mapping[str, Any], paths: Mapping[str, str]):
        self.spec = spec

    def read(self, path: Path | None) -> Iterator[UserInput]:
        name, content = content_of(path)
        table = parse_csv(content, Path(name), name)
        columns = [feature.lower() for feature in self.spec.features]
        table.need(columns, f"its first line names the features of {self.spec.name}")
        for number, cells in table.rows:
            where = f"line {number}" if path is None else f"{name} line {number}"
            wrong = [column for column in columns if not is_finite(cells[column])]
            if wrong:
                yield UserInput(where, problem=f"{wrong[0]}={cells[wrong[0]]!r} is no number")
            else:
                yield UserInput(where, np.array([cells[column] for column in columns], np.float32))

    def encode(self, values: list[np.ndarray]) -> Any:
        from kdrun.data.samples import normalised

        return normalised(np.stack(values), self.spec.mean, self.spec.std)
