"""Locks between processes: who holds one, since when, and what to do where it hangs.

A lock is `filelock`'s: the system frees it when its process dies. Beside NAME.lock lies NAME.holder, which says who took it last; it
means something only while the lock is held.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json


@contextmanager
def hold(
    path: Path, waiting: Callable[[], None] | None = None, while_waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock at `path` (NAME.lock). `waiting` is called once where another process has it; `while_waiting` again and
    again, and may raise to give up."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting:
            waiting()
        while not lock.is_locked:
            while_waiting()
            with suppress(Timeout):
                lock.acquire(timeout=0.5, poll_interval=0.05)
    holder = path.with_suffix(".holder")
    try:
        with suppress(OSError):
            write_json(holder, this_process(), durable=False)
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def this_process() -> dict[str, Any]:
    """{"pid", "host", "since"}: what others are told of this process."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat("T", "seconds"),
    }


def waiting_text(path: Path, does: str) -> str:
    """What to tell who waits for the lock at `path`. does: `fits teacher/seed=0`."""
    try:
        return text_of(read_json(path.with_suffix(".holder")), does)
    except (OSError, ValueError, KeyError, TypeError):
        return f"waiting for another process that {does}"


def text_of(holder: dict[str, Any], does: str) -> str:
    """The same of what `this_process` said in another process."""
    pid, host = int(holder["pid"]), holder.get("host")
    since = datetime.fromisoformat(holder["since"]).astimezone()
    here = host in (None, socket.gethostname())
    return (
        f"waiting for process {pid}{'' if host is None else f' on {host}'}, which {does} since {since:%Y-%m-%d %H:%M:%S}; "
        f"if it hangs{'' if here else ' there'}: kill {pid}, and this goes on"
    )
