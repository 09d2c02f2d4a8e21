"""The job of a record, as it was frozen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kdrun.config.compose import Job
from kdrun.tracking.provenance import cells_of


def job_from_record(record: dict[str, Any], outputs: Path | None = None) -> Job:
    """The job of a record: the same cells, hash, overrides and choices.

    What it calls must be allowed by the user for runs in this folder (config.allowed); what the record says of that does not count.
    UserError where it is not.

    outputs  where the run was found. A record that was moved, or came from another machine, names folders that may not
             exist here, so its outputs folder, and the store inside it, are taken to be this one.
    """
    from kdrun.config.allowed import check

    cells = cells_of(record)
    targets = dict.fromkeys(sorted(check(cells, outputs or cells[0]["paths"]["outputs"])), True)
    cells = [{**cell, "targets": targets} if targets or cell.get("targets") else cell for cell in cells]
    if outputs is not None:
        cells = [{**cell, "paths": _moved(cell["paths"], outputs)} for cell in cells]
    return Job(cells, list(record["overrides"]), dict(record["choices"]), record["job_hash"])


def _moved(paths: dict[str, str], outputs: Path) -> dict[str, str]:
    old, new = Path(paths["outputs"]), {**paths, "outputs": os.fspath(outputs)}
    store = Path(paths["store"])
    if store.is_relative_to(old):
        new["store"] = os.fspath(outputs / store.relative_to(old))
    return new
