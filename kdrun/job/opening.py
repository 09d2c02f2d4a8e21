"""The run of a job, opened by this process, or waited for while another one works on it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from kdrun.files import short
from kdrun.present.console import Console


def opened(job, folder: Path | None, provenance, signals, tell, console: Console):
    """The run, begun, its start written; or the folder of this very run, if another process finished it meanwhile."""
    from kdrun.tracking.provenance import write_start
    from kdrun.tracking.record import DONE as RUN_DONE
    from kdrun.tracking.registry import open_folder, open_run, when_free

    told: list[str] = []

    def wait(folder: Path) -> None:
        if (text := waiting_text(folder)) not in told:
            told.append(text)
            if tell:
                tell({"kind": "note", "text": text})
            console.whole(text, "dim")
        time.sleep(0.5)
        if signals.received:
            raise SystemExit(128 + signals.received)

    if folder is None:
        outputs = job.config["paths"]["outputs"]
        run = when_free(lambda: open_run(outputs, job.config["name"], job.hash, alone=True), wait)
        if isinstance(run, Path):
            return run
        try:
            write_start(run, job, provenance)
        except BaseException as error:
            with contextlib.suppress(OSError):
                run.fail(error)
            with contextlib.suppress(OSError):
                run.close()
            raise
        return run
    while (run := open_folder(folder)) is None:
        wait(folder)
    if run.status == RUN_DONE:
        run.close()
        return folder
    return run


def waiting_text(folder: Path) -> str:
    """What to tell who waits for the process that works on a run."""
    from kdrun.locks import text_of
    from kdrun.tracking.record import read_record

    try:
        attempt = read_record(folder)["attempts"][-1]
        return text_of({**attempt, "since": attempt["started"]}, f"has been working on {folder.name}")
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return f"waiting for another process that works on {folder.name}"


def finished_meanwhile(folder: Path, console: Console, json: bool) -> int:
    """Show the run that another process finished while this one waited for it."""
    from kdrun.files import dump_json
    from kdrun.job.panel import show
    from kdrun.tracking.record import read_record

    summary = read_record(folder)["summary"]
    if summary:
        show(console, summary, {}, {"look further": f"kdrun show {folder.name}", "record": short(folder)})
    if json:
        print(dump_json({"id": folder.name, "path": str(folder), "summary": summary}))
    return 0
