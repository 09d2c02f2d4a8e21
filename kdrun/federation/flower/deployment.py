"""A federation on a SuperLink: `flwr run` starts the apps, their server tells this process in files how far it is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdrun.federation.faults import BadUpdate
from kdrun.federation.request import FederationRequest
from kdrun.files import read_json, write_atomic
from kdrun.learning.firststep import NoEffect
from kdrun.learning.report import Interrupted, Report
from kdrun.problems import UserError

EVENTS, STOP, LOCK, SAID = "events.jsonl", "stop", "lock", "flwr.log"
"""Files between the server's process and this one."""
POLL, PATIENCE, LINGER = 0.2, 120.0, 5.0
"""Seconds between two looks; until a server that was told to stop has stopped; in which it may still say something after
`flwr run` has ended."""
CONNECTION = "kdrun"
KNOWN = {error.__name__: error for error in (BadUpdate, NoEffect)}

PROJECT = """\
[project]
name = "kdrun-federation"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "kdrun"

[tool.flwr.app.components]
serverapp = "kdrun.federation.flower.server_app:app"
clientapp = "kdrun.federation.flower.client_app:app"

[tool.flwr.app.config]
"""


def deploy(request: FederationRequest, report: Report) -> dict[str, Any]:
    """The outcome of the federation, played by apps on `strategy.superlink`, which must be on this machine: its server works
    in the work folder. Stopped or killed it goes on like any stage; a server that is still at work is stopped first.
    """
    folder = request.work.absolute() / "flower"
    folder.mkdir(parents=True, exist_ok=True)
    _stop_earlier(folder, report)
    for name in (EVENTS, STOP):
        (folder / name).unlink(missing_ok=True)
    app, connection = write_app(request, folder), request.federation["engine"]["superlink"]
    if ":" in connection:
        address, connection = connection, CONNECTION
        _reach(address)
        write_atomic(folder / "config.toml", f'[superlink.{CONNECTION}]\naddress = "{address}"\ninsecure = true\n')
    command = [sys.executable, "-P", "-m", "flwr.cli.app", "run", str(app), connection, "--stream"]
    with open(folder / SAID, "w", encoding="utf-8") as said:
        # A session of its own: a Ctrl-C is for this process, which asks the server to save and stop.
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return _followed(folder, process, report)
    finally:
        (folder / STOP).touch()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.terminate()


def _reach(address: str) -> None:
    """Raises UserError where nobody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"strategy.superlink={address}: no SuperLink there ({error})",
            "flower-superlink --insecure --port PORT --disable-runtime-dependency-installation starts one",
        ) from None


def write_app(request: FederationRequest, folder: Path) -> Path:
    """A folder with a Flower app that plays this federation; its apps are kdrun's own, the request is in its config.

    Nothing is installed for it (dependencies = []): every machine has kdrun with its extra `fl`.
    """
    import torch

    app = folder / "kdrun-federation"
    app.mkdir(exist_ok=True)
    asked = replace(request, work=request.work.absolute()).to_json()
    config = {
        "request": json.dumps(asked),
        "paths": json.dumps(request.federation["engine"]["paths"]),
        "threads": torch.get_num_threads(),
    }
    # JSON text of a text without control characters is a TOML string, too.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in config.items()]
    write_atomic(app / "pyproject.toml", PROJECT + "".join(lines))
    return app


def _stop_earlier(folder: Path, report: Report) -> None:
    """Waits until the server of an earlier try, if there is one, has saved and stopped."""
    from filelock import FileLock, Timeout

    (folder / STOP).touch()
    lock, until, told = FileLock(folder / LOCK), time.monotonic() + PATIENCE, False
    while True:
        try:
            with lock.acquire(timeout=0):
                return
        except Timeout:
            if not told:
                told = True
                report.note("the server of an earlier try is still at work; it is asked to save and stop")
            if time.monotonic() > until:
                raise UserError(
                    "the server of an earlier try does not stop", "end its run: flwr ls, flwr stop"
                ) from None
            time.sleep(POLL)


def _followed(folder: Path, process: subprocess.Popen, report: Report) -> dict[str, Any]:
    """Passes on what the server tells until it is through."""
    stopping = False
    for event in _events(folder / EVENTS, process):
        if not stopping and report.stop_requested():
            (folder / STOP).touch()
            stopping = True
        if event is None:
            continue
        what, *given = event
        if what == "done":
            return read_json(folder.parent / "outcome.json")
        if what == "failed":
            raise _error(*given)
        getattr(report, what)(*given)
    if stopping:
        raise Interrupted
    raise RuntimeError(f"Flower ended and its server said nothing of an end: {_last_lines(folder / SAID)}")


def _events(path: Path, process: subprocess.Popen) -> Iterator[list[Any] | None]:
    """Each event as it comes, None in between; ends a while after the process has ended."""
    place, ended = 0, None
    while ended is None or time.monotonic() - ended < LINGER:
        if path.is_file():
            with open(path, "rb") as file:
                file.seek(place)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    place += len(line)
                    yield json.loads(line)
        yield None
        if ended is None and process.poll() is not None:
            ended = time.monotonic()
        time.sleep(POLL)


def _error(kind: str, lines: list[str], where: str) -> Exception:
    """The exception that ended the server, as one of this process."""
    if kind == Interrupted.__name__:
        return Interrupted()
    if kind == UserError.__name__:
        return UserError(*lines)
    return KNOWN.get(kind, RuntimeError)(f"{' '.join(lines)}\n{where}" if kind not in KNOWN else " ".join(lines))


def _last_lines(path: Path, count: int = 5) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return os.linesep.join(lines[-count:])
