"""The W&B mirror of a run, as a process of its own: a tracker that hangs, crashes or dies never touches the training.

The training process only appends to metrics.jsonl and record.json. The mirror (`python -m kdrun.report.push RUN`)
reads both and logs them. What ties the two together is one pipe: the line "end" or its
closing means that the run is over, whatever killed it; then the mirror sends the rest, the summary and the exit code,
and has `timeout` seconds for that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json
from kdrun.tracking.credentials import resolve_mode
from kdrun.tracking.record import Run

FOLDER = "tracking"
SETTINGS, CURSOR, STATE, LOG = "mirror.json", "cursor.json", "state.json", "mirror.log"
PROGRAM = "kdrun.report.push"
"""What runs in the mirror process; it also draws, so it lies above the records that it sends."""
DEFAULT_TIMEOUT = 20.0
EXIT_TIMEOUT = 75
"""Exit status of a mirror that gave up waiting for W&B."""


def start_mirror(run: Run, tracker: Mapping[str, Any]) -> Mirror | None:
    """Start the mirror of this run, after `write_start` has filled its record; None where no tracker is wanted.

    A process that cannot be started is no error either: `finish` then says so. UserError if `tracker.mode=online` and
    there is no key; `kdrun.tracking.credentials.resolve_mode` says it at plan time.
    """
    mode = resolve_mode(tracker)
    if mode is None:
        return None
    folder = run.dir / FOLDER
    folder.mkdir(exist_ok=True)
    settings = mirror_settings(run.dir, run.record, tracker, mode)
    write_json(folder / SETTINGS, settings)
    with contextlib.suppress(FileNotFoundError):
        (folder / STATE).unlink()
    try:
        process = launch(run.dir, f"--parent={os.getpid()}", stdin=subprocess.PIPE)
    except OSError:
        process = None
    return Mirror(process, run.dir, settings)


def mirror_settings(folder: Path, record: Mapping[str, Any], tracker: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """What the mirror needs besides the record. The id comes from the job hash and the ordinal of the folder, so that
    a continued run, and a second sync, meet the same W&B run."""
    ordinal = folder.name.rpartition(record["job_hash"][:8])[2]
    config = record.get("config") or {}
    tags = config.get("tags") or {}
    return {
        "mode": mode,
        "id": record["job_hash"][:16] + ordinal,
        "name": record.get("name") or folder.name,
        "project": tracker.get("project") or "kdrun",
        "entity": tracker.get("entity"),
        "group": (record.get("choices") or {}).get("experiment"),
        "tags": sorted(name if value is True else f"{name}={value}" for name, value in tags.items() if value),
        "timeout": float(tracker.get("timeout") or DEFAULT_TIMEOUT),
    }


def launch(folder: Path, *options: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """The mirror process of a run folder: own session (Ctrl-C in the terminal is for the training), output to a log.

    `-P` keeps the current folder off its path: a folder `wandb` or a file `grp.py` there must not be imported.
    """
    with open(folder / FOLDER / LOG, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, os.path.abspath(folder), *options],
            stdin=stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder / FOLDER,
            env=mirror_environment(),
        )


def mirror_environment() -> dict[str, str]:
    """The caller's, made independent of its folder, without a W&B service the caller may have, kdrun importable."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment["PYTHONPATH"] = os.pathsep.join([*(os.path.abspath(path) for path in given if path), package])
    return environment | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Mirror:
    """The training side: tells the mirror when the run is over, and never waits longer than `timeout` seconds."""

    def __init__(self, process: subprocess.Popen[bytes] | None, folder: Path, settings: Mapping[str, Any]):
        self.process = process
        self.dir = folder
        self.settings = settings
        self._finished = False
        self._notice: str | None = None

    def end(self) -> None:
        """Say that the record is final; does not wait. A sweep may start its next job and `finish` later."""
        pipe = self.process.stdin if self.process else None
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(OSError):  # the mirror is gone already
                pipe.write(b"end\n")
                pipe.flush()
            with contextlib.suppress(OSError):
                pipe.close()

    def finish(self, timeout: float | None = None) -> str | None:
        """Wait until everything is with W&B (or in its offline folder); call it after the last `run.update`.

        Returns None if all went well, else the one line to show. A mirror that does not answer is ended and the caller
        goes on. Later calls repeat the answer.
        """
        if not self._finished:
            what = self._wait(float(self.settings["timeout"]) if timeout is None else timeout)
            if what:
                self._notice = f"W&B {what}; everything is in {self.dir}; later: kdrun sync {self.dir.name}"
            self._finished = True
        return self._notice

    def _wait(self, seconds: float) -> str | None:
        if self.process is None:
            return "mirror could not be started"
        self.end()
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = EXIT_TIMEOUT
            kill_group(self.process)
        except BaseException:
            kill_group(self.process)
            raise
        if status == EXIT_TIMEOUT:
            return f"did not answer in {seconds:g} s"
        if status != 0:
            return f"failed (see {FOLDER}/{LOG} there)"
        return None

    def describe(self) -> str:
        """One line for a panel: where the run is at W&B, or how it gets there."""
        return describe_mirror(self.dir) or str(self.settings["mode"])


def read_state(folder: Path) -> dict[str, Any]:
    """What the last mirror of this run folder left behind: finished, mode, exit_code, rows, attempt, url or problem.
    {} if there was none, or it was killed."""
    try:
        state = read_json(folder / FOLDER / STATE)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def describe_mirror(folder: Path) -> str | None:
    """`offline, not sent`, the address of an online run, or None for a run without a tracker."""
    if not (folder / FOLDER / SETTINGS).exists():
        return None
    state = read_state(folder)
    if not state.get("finished"):
        return "not sent completely"
    return str(state.get("url") or "online") if state["mode"] == "online" else "offline, not sent"


def send_command(folder: Path) -> str | None:
    """The command that sends a run to W&B; None where all of it is there, or no tracker was wanted."""
    state = read_state(folder)
    sent = state.get("finished") and state["mode"] == "online"
    return None if sent or not (folder / FOLDER / SETTINGS).exists() else f"kdrun sync {folder.name}"


def upload_notice(runs: Path, tracker: Mapping[str, Any]) -> list[str]:
    """What to say before the first upload from this folder of runs, where nobody asked for one: a key alone makes
    `tracker.mode=auto` send runs. [] where runs were sent before, or are not."""
    if tracker.get("mode", "auto") != "auto" or resolve_mode(tracker) != "online":
        return []
    for path in runs.glob(f"*/{FOLDER}/{SETTINGS}"):
        with contextlib.suppress(OSError, ValueError):
            if read_json(path)["mode"] == "online":
                return []
    project = tracker.get("project") or "kdrun"
    return [
        f"a W&B key is set here: this run and later ones are sent to Weights & Biases, project {project}",
        "to keep them on this machine: tracker=none, or for all runs: export WANDB_MODE=disabled",
    ]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the mirror and what it started. W&B's own service sees that the mirror is gone and ends by itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
