"""Flower's ServerApp on a SuperLink: it plays the federation and tells in files how far it is."""

from __future__ import annotations

import json
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from kdrun.federation.flower.deployment import EVENTS, LOCK, PATIENCE, STOP
from kdrun.federation.request import FederationRequest
from kdrun.learning.report import Report
from kdrun.problems import UserError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Plays the request of the run's config. Whatever ends it is told to who began it, and is no failure of the app."""
    import torch
    from filelock import FileLock

    from kdrun.domains.load import load_data
    from kdrun.federation.flower.engine import assemble_remote
    from kdrun.federation.run import played
    from kdrun.learning.teaching import Workshop

    request, paths = (json.loads(context.run_config[name]) for name in ("request", "paths"))
    request = FederationRequest.from_json(request)
    work = request.work
    if not work.is_dir():
        raise UserError(f"{work} is not on this machine", "start the run on the machine of its SuperLink")
    torch.set_num_threads(context.run_config["threads"])
    report = Written(work / "flower")
    workshop = Workshop(lambda config: load_data(config, paths), work)
    with FileLock(work / "flower" / LOCK).acquire(timeout=PATIENCE):
        try:
            played(request, report, workshop, partial(assemble_remote, grid=grid, report=report))
        except Exception as error:
            lines = error.lines if isinstance(error, UserError) else [str(error)]
            report.tell("failed", type(error).__name__, lines, traceback.format_exc())
        else:
            report.tell("done")


class Written(Report):
    """What a federation tells, as lines of a file; a file beside it asks for a stop."""

    def __init__(self, folder: Path):
        self.folder, self._told = folder, 0.0

    def tell(self, what: str, *given: Any) -> None:
        with open(self.folder / EVENTS, "a", encoding="utf-8") as file:
            file.write(json.dumps([what, *given]) + "\n")

    def stage(self, label, total, done, unit="step"):
        self.tell("stage", label, total, done, unit)

    def advance(self, done, values=None):
        if time.monotonic() - self._told > 0.5:
            self._told = time.monotonic()
            self.tell("advance", done)

    def rows(self, rows):
        self.tell("rows", rows)

    def epoch(self, label, epoch, epochs, values):
        self.tell("epoch", label, epoch, epochs, values)

    def note(self, text):
        self.tell("note", text)

    def stop_requested(self):
        return (self.folder / STOP).exists()
