"""kdrun and its fork server, forked from a process that has imported everything: what is killed is real, the waiting is not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parent.parent.parent


class Forked:
    """As much of subprocess.Popen as the pool uses, for the server's `main` in a fork of this process."""

    def __init__(self, command, stdin, stdout, start_new_session, env):
        take, self.give = os.pipe()
        hear, say = os.pipe()
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.setsid()
                os.dup2(take, 0)
                os.dup2(say, 1)
                for end in (take, self.give, hear, say):
                    os.close(end)
                os.environ.update(env)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                from kdrun.sweep import server

                server.main()
            os._exit(0)
        os.close(take)
        os.close(say)
        self.stdin, self.stdout = os.fdopen(self.give, "wb"), os.fdopen(hear, "rb")

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout=None):
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("server", timeout)
            time.sleep(0.02)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def main() -> None:
    """Read lines `FOLDER<tab>WORDS...`, start each as a forked kdrun, and answer with its process id."""
    from kdrun.sweep import pool, server

    server.preload({"path": [*sys.path, str(ROOT)], "preload": ["kdrun.sweep.execute", "kdrun.data.digits"]})
    import kdrun.data.module

    pool.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        folder, *words = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                os.chdir(folder)
                log = os.open("sweep.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                sys.argv = ["kdrun", *words]
                from kdrun.cli import main as kdrun

                code = kdrun(words)
                Path("exit").write_text(str(code))
            os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
