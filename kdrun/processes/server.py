"""The warm fork server: imports once, then forks one clean process per request (`python -m kdrun.processes.server`).

Standard input brings one JSON object a line: first {"path", "preload"}, then {"run", "call", "log", ...}, {"stop", "signal"},
{"send", "text"} (a line for the standard input of a process) and {"release"} (the end of that). Standard output takes the events of all
processes, one JSON object a line; a line is one write, which a pipe does not mix with another. When the input ends (its kdrun ended or
was killed) the processes save their state and stop.
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
import threading
import time
from typing import Any

PRELOAD = ("kdrun.run", "kdrun.learning.fit", "kdrun.strategies.cast", "kdrun.domains.load", "kdrun.tracking.mirror")
MODELS = "transformers.modeling_utils"
"""What is imported for the first model of transformers, which takes longer than a small one to train."""
WATCH_SECONDS = 0.5
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
    """children: process id -> number of the request; inputs: the same -> where its standard input is written to."""

    def __init__(self, events: int):
        self.events = events
        self.children: dict[int, int] = {}
        self.inputs: dict[int, int] = {}

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
        elif "send" in request:
            self._send(request["send"], request["text"])
        elif "release" in request:
            self._release(request["release"])
        else:
            self._stop([pid for pid, number in self.children.items() if number == request["stop"]], request["signal"])

    def _send(self, number: int, text: str) -> None:
        data = text.encode() + b"\n"
        with contextlib.suppress(KeyError, BrokenPipeError):  # the end of the process is told as one
            while data:
                data = data[os.write(self.inputs[number], data) :]

    def _release(self, number: int) -> None:
        if number in self.inputs:
            os.close(self.inputs.pop(number))

    def _fork(self, request: dict[str, Any]) -> None:
        server, (read, write) = os.getpid(), os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for end in (write, *self.inputs.values()):
                    os.close(end)
                code = self._child(request, server, read)
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
        os.close(read)
        self.children[pid], self.inputs[request["run"]] = request["run"], write
        emit(self.events, {"number": request["run"], "kind": "start", "pid": pid})

    def _child(self, request: dict[str, Any], server: int, source: int) -> int:
        os.setsid()  # a group of its own: whatever it starts ends with it
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in self._inherited:
            os.close(end)
        os.dup2(source, 0)
        os.close(source)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ.update(request["environment"])
        end_with(server)
        number = request["run"]
        module, _, name = request["call"].partition(":")
        function = getattr(importlib.import_module(module), name)
        return function(request, lambda event: emit(self.events, {"number": number, **event}))

    def _stop(self, pids: list[int], number: int) -> None:
        for pid in pids:
            self._release(self.children[pid])  # one that only waits for a line would not notice the signal
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number) if number == signal.SIGKILL else os.kill(pid, number)

    def _reap(self) -> None:
        for pid, number in list(self.children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            del self.children[pid]
            self._release(number)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # ranks of a job that was killed
            emit(self.events, {"number": number, "kind": "end", "code": os.waitstatus_to_exitcode(status)})


def end_with(parent: int) -> None:
    """Stop this process, its state saved, when `parent` is gone: whoever could have asked for that no longer can."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def preload(request: dict[str, Any]) -> None:
    """Import what every job needs. A module that cannot be imported here fails in the job that needs it, with its name."""
    sys.path[:] = request["path"]
    for module in (*PRELOAD, *request["preload"], MODELS):
        if (
            module != MODELS or "kdrun.networks.quiet" in sys.modules
        ):  # which networks import that are made by transformers
            with contextlib.suppress(Exception):
                importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the children share these objects' pages


DROPPED = ("stage", "progress", "epoch", "note")
"""Kinds of events that only show progress."""


def emit(file: int, event: dict[str, Any]) -> None:
    """Write one event, a long one in parts. Nobody reading (any more) stops no process: what only shows progress is then dropped."""
    text = json.dumps(event)
    if len(text) < LINE:
        _write(file, event, text)
        return
    pieces = [
        text[start : start + LINE // 4] for start in range(0, len(text), LINE // 4)
    ]  # quoted once more, twice as long
    for number, piece in enumerate(pieces, 1):
        part = {"number": event["number"], "kind": "part", "text": piece, "last": number == len(pieces)}
        _write(file, part, json.dumps(part))


def _write(file: int, event: dict[str, Any], text: str) -> None:
    while True:
        try:
            os.write(file, text.encode() + b"\n")
            return
        except BlockingIOError:
            if event["kind"] in DROPPED:
                return
            time.sleep(0.05)
        except OSError:
            return


if __name__ == "__main__":
    sys.exit(main())
