"""What a fit tells while it works. The bars and the metrics file implement this; here it is silent."""

from __future__ import annotations

import time
from typing import Any


class Interrupted(Exception):
    """A signal asked to stop; the state is saved and the same command goes on from it."""


STOP_SECONDS = 4.0
"""How long what cannot be stopped and saved at any moment goes on once a signal asked to stop."""


class Leaving:
    """Called often by what is left rather than finished where a signal asked to stop: an evaluation, a pass that fills a cache. Raises
    Interrupted STOP_SECONDS after it first saw the signal; the next try goes on from the last state, or from the rows that are there."""

    def __init__(self, report: Report):
        self._report, self._seen = report, None

    def __call__(self) -> None:
        if self._seen is None:
            self._seen = time.monotonic() if self._report.stop_requested() else None
        elif time.monotonic() - self._seen > STOP_SECONDS:
            raise Interrupted

    def advance(self, done: int) -> None:
        self._report.advance(done)
        self()


class Report:
    """Called by the learning room; every method may be left as it is."""

    def stage(self, label: str, total: int, done: int, unit: str = "step") -> None:
        """A stage (or the building of a cache) of `total` units starts at `done`."""

    def advance(self, done: int, values: dict[str, float] | None = None) -> None:
        """The running stage is at `done` units; `values` are the latest losses."""

    def rows(self, rows: list[dict[str, Any]]) -> None:
        """Rows of metrics.jsonl: {"stage", "step", "epoch", name: number ...}."""

    def epoch(self, label: str, epoch: int, epochs: int, values: dict[str, float]) -> None:
        """An epoch has been validated."""

    def note(self, text: str) -> None:
        """One line a person should see."""

    def mended(self, text: str) -> None:
        """Something that was kept is damaged and is made again: a note that the run's record keeps as well."""
        self.note(text)

    def stop_requested(self) -> bool:
        """Whether a signal asked to save and stop; looked at after every step."""
        return False
