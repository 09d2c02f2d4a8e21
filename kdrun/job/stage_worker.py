"""A process that fits stages of a job, one after another, for the process that owns its run (stage_pool.py)."""

from __future__ import annotations

import base64
import contextlib
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdrun.checksums import told
from kdrun.job.cells import make_lab
from kdrun.job.log import logged
from kdrun.job.progress import EventReport, Signals
from kdrun.learning.report import Interrupted
from kdrun.present.console import harmless

Tell = Callable[[dict[str, Any]], None]


class StageReport(EventReport):
    """Everything that a fit tells, as events: nothing is written here."""

    def __init__(self, tell: Tell, signals: Signals):
        super().__init__(tell, lambda rows: tell({"kind": "rows", "rows": rows}), signals)

    @harmless
    def note(self, text):
        self._tell({"kind": "note", "text": text})

    @harmless
    def epoch(self, label, epoch, epochs, values):
        self._tell({"kind": "epoch", "label": label, "epoch": epoch, "epochs": epochs, "values": values})

    def mended(self, text):
        self._tell({"kind": "mended", "text": text})

    def stop_requested(self):
        return self._signals.received is not None


def serve(request: dict[str, Any], tell: Tell) -> int:
    """Fit the stages that standard input brings, one a line, until it ends. Events tell what happens; one that fails ends the process.

    request: {"paths", "hardware", "energy", "force", "idle_watts", "jobs", "threads", "log"}
    """
    from kdrun.learning.device import apply_threads

    apply_threads(request["hardware"], request["threads"])
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(Signals())
        stack.enter_context(logged(Path(request["log"]), logging.WARNING))  # the rest is logged by who is told of it
        report = StageReport(tell, signals)
        stack.enter_context(told(report.mended))
        sources: dict[str, str] = {}
        lab = make_lab(
            request["paths"],
            request["hardware"],
            report,
            lambda item: sources.update({item.result.fingerprint: item.source}),
            force=request["force"],
            energy=request["energy"],
            jobs=request["jobs"],
        )
        lab.check = lambda stage, result=None: None  # by who asked for it, who tells what is to be known, once
        stack.callback(lab.workshop.close)
        lab.workshop.metering.idle_known(request["idle_watts"])
        for line in stack.enter_context(open(0, "rb", closefd=False)):
            try:
                result = lab.get(unpacked(line.decode()))
            except Interrupted:
                tell({"kind": "stopped"})
                return 0
            except BaseException as error:
                tell({"kind": "failed", "error": packed_error(error)})
                return 1
            tell({"kind": "fitted", "fingerprint": result.fingerprint, "source": sources[result.fingerprint]})
    return 0


def packed(value: Any) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()


def unpacked(text: str) -> Any:
    """What `packed` made, in a process of the same kdrun. Nothing else is ever read by it."""
    return pickle.loads(base64.b64decode(text))


def packed_error(error: BaseException) -> str:
    """An exception with where it was raised and its traceback. One that cannot be sent becomes a RuntimeError of its name."""
    from kdrun.tracking.record import describe_error

    trace, where = "".join(traceback.format_exception(error)), describe_error(error)["where"]
    try:
        unpacked(packed(error))
    except Exception:
        bases = tuple(kind.__name__ for kind in type(error).__mro__)
        return packed((None, type(error).__name__, bases, str(error), where, trace))
    return packed((error, None, (), "", where, trace))


def unpacked_error(text: str) -> BaseException:
    """The exception, which knows where it was raised (`raised_at`); its traceback is a note."""
    error, name, bases, message, where, trace = unpacked(text)
    if error is None:
        error = type(name, (MemoryError if "OutOfMemoryError" in bases else RuntimeError,), {})(message)
    error.raised_at = where
    error.add_note(f"in the process that fitted it:\n{trace}")
    return error
