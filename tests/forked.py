"""Python processes without the seconds of importing: forked from one that has imported everything, and nothing more.

`Forked` takes the place of `subprocess.Popen` for `python -m MODULE ...` and `python SCRIPT ...`. The process it gives is as
clean as a new interpreter but for the modules that it finds imported: its own process id, session, folder, environment,
streams and `__main__`, and no open file of its parent. No test has run in the process that is forked from: it is the fork server of
multiprocessing, started with the first use. What a Forked starts in turn (ranks, the server of a sweep) is forked from it.

Not for tests of what is imported when, nor of the start itself: these start real interpreters.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

HERE = Path(__file__).parent
PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL


def stand_in() -> SimpleNamespace:
    """The module subprocess with Forked for its Popen: what to put in the place of `subprocess` in a module of kdrun."""
    return SimpleNamespace(**{**vars(subprocess), "Popen": Forked})


class Forked:
    """As much of subprocess.Popen as kdrun and its tests use. `stdout` and `stderr` may be files or PIPE, which is binary."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Any = DEVNULL,
        stdout: Any = None,
        stderr: Any = None,
        start_new_session: bool = False,
    ):
        self.args, self.returncode = list(command), None
        self.stdin = self.stdout = self.stderr = None
        theirs = []
        for number, (name, given) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
            if given == PIPE:
                take, give = os.pipe()
                setattr(self, name, os.fdopen(give if number == 0 else take, "rb" if number else "wb"))
                theirs.append(take if number == 0 else give)
            elif given == DEVNULL:
                theirs.append(os.open(os.devnull, os.O_RDWR))
            elif given == STDOUT:
                theirs.append(os.dup(theirs[1]))
            else:
                theirs.append(os.dup(number if given is None else given.fileno()))
        start = {
            "words": self.args[1:],
            "folder": os.fspath(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._process = None
        if multiprocessing.parent_process() is None:
            streams = [Connection(end) for end in theirs]  # which multiprocessing passes on
            self._process = _server().Process(target=_begin, args=(streams,), kwargs=start, daemon=True)
            self._process.start()
            self.pid = self._process.pid
            for stream in streams:
                stream.close()
            return
        self.pid = os.fork()
        if self.pid == 0:
            _become(theirs, **start)
        for end in theirs:
            os.close(end)

    def poll(self) -> int | None:
        if self.returncode is None and self._process is not None:
            self.returncode = self._process.exitcode
        elif self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            if self._process is None:
                time.sleep(0.01)
            else:
                self._process.join(1.0 if end is None else max(0.0, end - time.monotonic()))
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def run(command: Sequence[str], *, folder: Path, timeout: float = 280, **options: Any) -> subprocess.CompletedProcess:
    """As subprocess.run(capture_output=True, text=True), what is printed passing through files beside `folder`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Forked(command, cwd=folder, stdout=out, stderr=err, start_new_session=True, **options)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(list(command), code, out.read(), err.read())


def _server() -> Any:
    """multiprocessing's fork server, which has imported what imported.py imports before it forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imported"])
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *([given] if given else [])])
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if given is not None:
            os.environ["PYTHONPATH"] = given
    return context


def _begin(streams: list[Connection], **start: Any) -> NoReturn:
    _become([stream.fileno() for stream in streams], **start)


def _become(streams: list[int], words: list[str], folder: str, environment: dict[str, str], session: bool) -> NoReturn:
    """What the interpreter does with a command line, in a process that was just forked; `words` begin after its name."""
    code = 1
    try:
        if session:
            os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, end in enumerate(streams):
            os.dup2(end, number)
        os.closerange(3, 4096)
        logging.root.handlers.clear()  # a log of the parent's, whose file is closed here
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        _run(words)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(code)


def _run(words: list[str]) -> None:
    from kdrun.learning import workers
    from kdrun.processes import pool
    from kdrun.tracking import mirror

    for module in (workers, pool, mirror):
        module.subprocess = stand_in()
    flags = []
    while words[0].startswith("-") and words[0] != "-m":
        flags, words = [*flags, words[0]], words[1:]
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*dict.fromkeys([*given, *sys.modules["imported"].PATH])]
    if words[0] != "-m":
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")
        return
    sys.argv = words[1:]
    if "-P" not in flags:
        sys.path.insert(0, os.getcwd())
    sys.modules.pop(words[1], None)  # as in a new interpreter: it is run as __main__
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
