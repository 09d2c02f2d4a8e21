"""What a person sees while a job runs: bars on a terminal, one plain line per epoch or minute anywhere else."""

from __future__ import annotations

import copy
import logging
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kdrun.files import number
from kdrun.learning.report import Report
from kdrun.measures import measure
from kdrun.present.console import Console, harmless
from kdrun.present.units import MISSING, duration

LOG = logging.getLogger("kdrun")
EVERY = 60.0
"""Seconds after which a stage that has told nothing says how far it is, where there is no bar."""


class Signals:
    """While entered, SIGINT and SIGTERM ask the job to save and stop; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        import threading

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


class RunReport(Report):
    """Bars or lines on `console`; rows of metrics to `rows`; what was mended to `mends`; stop requests from `signals`. scores: of a stage's,
    the first of these that it has is shown.

    Epochs, notes and finished stages also go to Python's log, which is the run's log while a run is at work.
    """

    def __init__(
        self,
        console: Console,
        rows: Callable[[list[dict[str, Any]]], None],
        signals: Signals,
        quiet: bool = False,
        mends: Callable[[str], None] = lambda text: None,
        scores: Sequence[str] = ("accuracy",),
    ):
        self.console = console
        self._scores = scores
        self.quiet = quiet
        self._rows = rows
        self._mends = mends
        self._signals = signals
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage, self._last = ("", 0, ""), time.monotonic()
        self._told_to_stop = False
        if console.is_terminal and not quiet:
            self._bars = Progress(
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}s", markup=False),
                TextColumn("{task.fields[values]}", style="dim", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                refresh_per_second=8,
            )

    def __enter__(self) -> RunReport:
        if self._bars is not None:
            self._bars.start()
        return self

    @harmless
    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def beside(self) -> RunReport:
        """A report of what goes on beside other things: with a bar of its own, and all else in common."""
        other = copy.copy(self)
        other._task = None
        return other

    def ended(self) -> None:
        """A report beside others has no more to tell."""
        self._drop()

    def rows(self, rows):
        self._rows(rows)

    @harmless
    def stage(self, label, total, done, unit="step"):
        if self._bars is not None:
            self._drop()
            self._task = self._bars.add_task(label, total=total, completed=done, unit=unit, values="")
        self._stage, self._last = (label, total, unit), time.monotonic()

    @harmless
    def advance(self, done, values=None):
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done)
        elif self._bars is None and time.monotonic() - self._last >= EVERY:
            label, total, unit = self._stage
            self._last = time.monotonic()
            self.note(f"{label}: {done:.0f} of {total:.0f} {unit}s")

    @harmless
    def epoch(self, label, epoch, epochs, values):
        text = f"epoch {epoch + 1}/{epochs}, validation: {self._values(values)}"
        LOG.info("%s %s", label, text)
        self._last = time.monotonic()
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, values=text)
        elif not self.quiet:
            self.console.whole(f"{label} {text}")

    @harmless
    def note(self, text):
        LOG.info("%s", text)
        if not self.quiet:
            self.console.whole(text, "dim")

    def mended(self, text):
        self.note(text)
        self._mends(text)

    def stop_requested(self):
        if self._signals.received is not None and not self._told_to_stop:
            self._told_to_stop = True
            self.note("saving the state after this step (Ctrl-C again: stop at once, unsaved)")
        return self._signals.received is not None

    @harmless
    def finished(self, label: str, source: str, record: dict[str, Any]) -> None:
        """One line for a stage that is done."""
        self._drop()
        text = f"{label:<18} {record['learner']:<14} {self._result(record)}  ({how(source, record['cost'])})"
        LOG.info("%s", text)
        if not self.quiet:
            self.console.whole(text)

    @harmless
    def _drop(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def _judged_by(self, values: dict[str, Any]) -> str | None:
        return next((name for name in self._scores if name in values), None)

    def _score(self, values: dict[str, Any]) -> str:
        """`96.44 %`: what an epoch is judged by."""
        name = self._judged_by(values)
        return "" if name is None else _figure(name, values[name])

    def _values(self, values: dict[str, Any]) -> str:
        """`accuracy 96.44 %, loss 0.1318`: that score of an epoch, and its loss."""
        names = (self._judged_by(values), "loss")
        return ", ".join(f"{measure(name).label} {_figure(name, values[name])}" for name in names if name in values)

    def _result(self, record: dict[str, Any]) -> str:
        """`test accuracy 96.44 %, last epoch 96.02 %`."""
        best, last = record["test"]["best"], record["test"]["last"]
        metric = self._judged_by(best) or record["monitor"]
        text = f"test {measure(metric).label} {_figure(metric, best.get(metric))}"
        return (
            text if best.get(metric) == last.get(metric) else f"{text}, last epoch {_figure(metric, last.get(metric))}"
        )


def how(source: str, cost: dict[str, Any]) -> str:
    """Where a result comes from: `trained, 3.1 s`, `found in the store`, `loaded, 0.3 s` of weights that nothing was trained for."""
    if source == "store":
        return "found in the store"
    words = {"trained": "trained", "resumed": "continued"}[source] if cost.get("steps", 1) else "loaded"
    return f"{words}, {duration(cost['seconds'])}"


def _figure(name: str, value: Any) -> str:
    return MISSING if number(value) is None else measure(name).text(value)


class EventReport(RunReport):
    """The same for a job of a sweep: nothing is shown here, `tell` takes what the sweep's table shows."""

    def __init__(
        self,
        tell: Callable[[dict[str, Any]], None],
        rows: Callable[..., None],
        signals: Signals,
        **shown: Any,
    ):
        super().__init__(Console(quiet=True), rows, signals, quiet=True, **shown)
        self._tell = tell
        self._told = 0.0

    @harmless
    def stage(self, label, total, done, unit="step"):
        self._tell({"kind": "stage", "label": label, "total": total, "done": done, "unit": unit})

    @harmless
    def advance(self, done, values=None):
        if time.monotonic() - self._told > 0.5:
            self._told = time.monotonic()
            self._tell({"kind": "progress", "done": done})

    @harmless
    def epoch(self, label, epoch, epochs, values):
        super().epoch(label, epoch, epochs, values)
        self._tell(
            {
                "kind": "epoch",
                "label": label,
                "epoch": epoch,
                "epochs": epochs,
                "values": values,
                "score": self._score(values),
            }
        )

    @harmless
    def note(self, text):
        super().note(text)
        self._tell({"kind": "note", "text": text})
