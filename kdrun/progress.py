"""What a person sees while a job runs: bars on a terminal, one plain line per epoch anywhere else."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kdrun.learning.report import Report
from kdrun.measures import measure
from kdrun.panel import duration


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
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


class RunReport(Report):
    """Bars or lines on `console`; rows of metrics to `rows`; stop requests from `signals`."""

    def __init__(
        self, console: Console, rows: Callable[[list[dict[str, Any]]], None], signals: Signals, quiet: bool = False
    ):
        self.console = console
        self.quiet = quiet
        self._rows = rows
        self._signals = signals
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()
        self._told_to_stop = False
        if console.is_terminal and not quiet:
            self._bars = Progress(
                TextColumn("{task.description}", style="bold"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}s"),
                TextColumn("{task.fields[values]}", style="dim"),
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

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def stage(self, label, total, done, unit="step"):
        self._started = time.monotonic()
        if self._bars is not None:
            self._drop()
            self._task = self._bars.add_task(label, total=total, completed=done, unit=unit, values="")

    def advance(self, done, values=None):
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done)

    def rows(self, rows):
        self._rows(rows)

    def epoch(self, label, epoch, epochs, values):
        names = ("auc", "loss") if "auc" in values else ("accuracy", "bleu", "r2", "loss")
        shown = " ".join(f"{measure(name).label} {values[name]:.4f}" for name in names if name in values)
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, values=f"epoch {epoch + 1}/{epochs} val {shown}")
        elif not self.quiet:
            self.console.print(
                f"{label} epoch {epoch + 1}/{epochs} val {shown}", markup=False, highlight=False, soft_wrap=True
            )

    def note(self, text):
        if not self.quiet:
            self.console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def stop_requested(self):
        if self._signals.received is not None and not self._told_to_stop:
            self._told_to_stop = True
            self.note("saving the state after this step (once more: stop at once)")
        return self._signals.received is not None

    def finished(self, label: str, source: str, record: dict[str, Any]) -> None:
        """One line for a stage that is done."""
        self._drop()
        if self.quiet:
            return
        metric = "auc" if "auc" in record["test"]["best"] else record["monitor"]
        best, last = record["test"]["best"][metric], record["test"]["last"][metric]
        how = {"store": "found in the store", "trained": "trained", "resumed": "resumed and trained"}[source]
        cost = f"{how}, {duration(record['cost']['seconds'])}" if source != "store" else how
        text = f"{label:<18} {record['learner']:<14} test {metric} best {best:.4f} last {last:.4f}  ({cost})"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _drop(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class EventReport(RunReport):
    """The same for a job of a sweep: nothing is shown here, `tell` takes what the sweep's table shows."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], rows: Callable[..., None], signals: Signals):
        super().__init__(Console(quiet=True), rows, signals, quiet=True)
        self._tell = tell
        self._told = 0.0

    def stage(self, label, total, done, unit="step"):
        self._tell({"kind": "stage", "label": label, "total": total, "done": done, "unit": unit})

    def advance(self, done, values=None):
        if time.monotonic() - self._told > 0.5:
            self._told = time.monotonic()
            self._tell({"kind": "progress", "done": done})

    def epoch(self, label, epoch, epochs, values):
        self._tell({"kind": "epoch", "label": label, "epoch": epoch, "epochs": epochs, "values": values})

    def note(self, text):
        self._tell({"kind": "note", "text": text})
