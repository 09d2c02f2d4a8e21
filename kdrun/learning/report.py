"""What a fit tells while it works. The bars and the metrics file implement this; here it is silent."""

from __future__ import annotations

from typing import Any


class Interrupted(Exception):
    """A signal asked to stop; the state is saved and the same command goes on from it."""


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
