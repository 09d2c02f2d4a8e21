"""metrics.jsonl: one JSON object per row, append-only, buffered.

A row is {"stage": "student/seed=0", "step": 120, "epoch": 3, "train/loss": 0.31, ...}. `step` counts optimizer steps of
that stage and never decreases within it; the names are free. Non-finite numbers, and the checksum in blanks behind each row: see
`kdrun.files`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdrun.files import check_line, located, number, plain, seal_line

KEYS = ("stage", "step", "epoch")
FLUSH_SECONDS = 2.0


class MetricsWriter:
    """Rows are kept in memory and written together: at most every `FLUSH_SECONDS`, at `flush()` and at `close()`.

    Opening truncates: an attempt writes the whole history again (finished stages feed their rows from the store), so
    that rows of an interrupted attempt, which a resumed stage trains a second time, cannot appear twice.
    """

    def __init__(self, path: str | os.PathLike[str], flush_seconds: float = FLUSH_SECONDS):
        self.path = Path(path)
        self.flush_seconds = flush_seconds
        self._rows: list[str] = []
        self._flushed = time.monotonic()
        self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 - lives as long as the run

    def write(self, stage: str, step: int, epoch: int | None, values: Mapping[str, Any]) -> None:
        """One row. `values`: name -> number (or a scalar tensor or array); None values are left out, never made 0."""
        row: dict[str, Any] = {"stage": stage, "step": int(step)}
        if epoch is not None:
            row["epoch"] = int(epoch)
        for name, value in values.items():
            if name in KEYS:
                raise ValueError(f"a metric cannot be called {name!r}")
            if value is not None:
                row[name] = plain(value)
        self._rows.append(seal_line(json.dumps(row, ensure_ascii=False, allow_nan=False)))
        if time.monotonic() - self._flushed >= self.flush_seconds:
            self.flush()

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Rows as `read_metrics` gives them: how a finished stage found in the store brings its history."""
        for row in rows:
            values = {name: value for name, value in row.items() if name not in KEYS}
            self.write(row["stage"], row["step"], row.get("epoch"), values)

    def flush(self) -> None:
        """Hand everything to the operating system in one write, so that a kill cannot tear a row in the middle."""
        self._flushed = time.monotonic()
        if self._rows and not self._file.closed:
            content, self._rows = ("\n".join(self._rows) + "\n").encode(), []
            with located(self.path, len(content)):
                while content:
                    content = content[self._file.write(content) :]

    def close(self) -> None:
        """Flush, make durable and close. May be called twice."""
        if not self._file.closed:
            self.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def read_metrics(path: str | os.PathLike[str], stage: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows (of one stage, or of all), numbers as numbers again. A torn last line is left out; no file, no rows.

    ValueError with the line number for a broken row anywhere else: that is damage, not a run being written.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return
    whole = content[: content.rfind(b"\n") + 1]
    for index, line in enumerate(whole.splitlines(), start=1):
        try:
            check_line(line)
            row = json.loads(line)
            if not isinstance(row, dict) or "stage" not in row or "step" not in row:
                raise ValueError("it is not a row of metrics")
        except ValueError as error:
            raise ValueError(f"{path}, line {index}: {error}") from error
        if stage is None or row["stage"] == stage:
            yield parse_row(row)


def parse_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON with its numbers as numbers: "nan" becomes a float again."""
    return {name: value if name in KEYS else number(value) for name, value in row.items()}
