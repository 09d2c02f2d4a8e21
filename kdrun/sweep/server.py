"""The warm fork server of a sweep: imports once, then forks one clean process per job (`python -m kdrun.sweep.server`).

Standard input brings one JSON object a line: first {"path", "preload"}, then {"run", "folder", ...} and
{"stop", "signal"}. Standard output takes the events of all jobs, one JSON object a line; a line is one write, which a
pipe does not mix with another. When the input ends (its kdrun ended or was killed) the jobs save their state and stop.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

PRELOAD = ("kdrun.run", "kdrun.learning.fit", "kdrun.strategies.cast", "kdrun.domains.load", "kdrun.tracking.mirror")
LINE = 4096
"""Longest line in bytes that a pipe takes as one piece on every system we run on."""


def main() -> int:
    events = os.dup(1)
    os.set_blocking(events, False)
    os.dup2(2, 1)  # what a library prints is no event
    server = ForkServer(events)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the kdrun that started this; it says what shall happen
    return server.serve()


class ForkServer:
    """children: process id -> number of the job."""

    def __init__(self, events: int):
        self.events = events
        self.children: dict[int, int] = {}
        self.asked: dict[int, int] = {}

    def serve(self) -> int:
        """Until the input ends and no child is left."""
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._inherited = (wake, waker)
        buffer, open_ = b"", True
        while open_ or self.children:
            ready, _, _ = select.select([wake, *([0] if open_ else [])], [], [], 1.0)
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    open_ = False
                    self._stop(list(self.children), signal.SIGTERM)
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
            self._reap()
        return 0

    def _obey(self, request: dict[str, Any]) -> None:
        if "preload" in request:
            preload(request)
        elif "run" in request:
            self._fork(request)
        else:
            self._stop([pid for pid, number in self.children.items() if number == request["stop"]], request["signal"])

    def _fork(self, request: dict[str, Any]) -> None:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = self._child(request, server)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)  # not the server's clean-up
        self.children[pid] = request["run"]
        emit(self.events, {"number": request["run"], "kind": "start", "pid": pid})

    def _child(self, request: dict[str, Any], server: int) -> int:
        os.setsid()  # a group of its own: whatever it starts ends with it
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in self._inherited:
            os.close(end)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        folder = Path(request["folder"])
        log = os.open(folder / "run.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ.update(request["environment"])
        from kdrun.sweep.worker import end_with, run_frozen

        end_with(server)
        number = request["run"]
        return run_frozen(
            folder,
            force=request["force"],
            tell=lambda event: emit(self.events, {"number": number, **event}),
            max_threads=request["threads"],
        )

    def _stop(self, pids: list[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number) if number == signal.SIGKILL else os.kill(pid, number)

    def _reap(self) -> None:
        for pid, number in list(self.children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            del self.children[pid]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # ranks of a job that was killed
            emit(self.events, {"number": number, "kind": "end", "code": os.waitstatus_to_exitcode(status)})


def preload(request: dict[str, Any]) -> None:
    """Import what every job needs. A module that cannot be imported here fails in the job that needs it, with its name."""
    sys.path[:] = request["path"]
    from kdrun.networks.torchvision_operators import make_torchvision_importable

    make_torchvision_importable()
    for module in (*PRELOAD, *request["preload"]):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the children share these objects' pages


def emit(file: int, event: dict[str, Any]) -> None:
    """Write one event. Nobody reading (any more) stops no job: what only shows progress is then dropped."""
    line = json.dumps(event).encode() + b"\n"
    if len(line) > LINE:
        event = {key: value[:1000] if isinstance(value, str) else value for key, value in event.items()}
        line = json.dumps(event).encode() + b"\n"
    while True:
        try:
            os.write(file, line)
            return
        except BlockingIOError:
            if event["kind"] not in ("start", "mirror", "end"):
                return
            time.sleep(0.05)
        except OSError:
            return


if __name__ == "__main__":
    sys.exit(main())
