"""What runs on the other side of a launcher: the process that hands jobs to submitit or Ray, and what each of these then is.

Everything is in `request.json` of the launch's folder, which all processes read from the shared file system; each job has the
folder in which its config lies frozen. A file called `stop` asks every job to save its state and end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json

REQUEST, SUBMITTED, STOP = "request.json", "submitted.json", "stop"
SLURM = "submitit_slurm"
WATCH_SECONDS = 0.5
QUEUE_SECONDS, DISK_SECONDS = 10.0, 15.0
"""How often squeue is asked; how long a result may take to appear on a shared file system after its job has ended."""
REQUEUE_SECONDS = 30.0
"""Between SIGTERM and the signal by which submitit queues a preempted job again."""
OBJECT_STORE = 75 << 20
"""Bytes of a Ray that is started here; its jobs hand nothing over by it."""

START = (
    "import os, sys; sys.path[:] = {path!r}; from kdrun.sweep.launched import {function}; "
    "code = {function}(*{arguments!r}); sys.stdout.flush(); sys.stderr.flush(); {leave}(code)"
)
"""Python text that calls a function of this module with the import path of whoever starts it."""


def launch_jobs(place: str) -> int:
    """Hand the jobs of `place`/request.json over and wait for them; what goes wrong with the engine is the last line of its log.

    Its standard input ends when kdrun is gone: jobs on this machine are then stopped, those in Slurm's queue go on.
    """
    folder = Path(place)
    request = read_json(folder / REQUEST)
    threading.Thread(target=_end_with_kdrun, args=(folder, request["launcher"]), daemon=True).start()
    if request["launcher"] == "ray":
        _on_ray(place, request["runs"], **request["settings"]["ray"])
    else:
        _by_submitit(folder, request)
    return 0


def _by_submitit(folder: Path, request: dict[str, Any]) -> None:
    """Slurm's jobs of an earlier launch that have not ended are not submitted again.

    That a job died submitit only learns from sacct, which many clusters do not have; squeue knows what has not ended.
    """
    import submitit

    slurm = request["launcher"] == SLURM
    settings, cluster = dict(request["settings"]), "slurm" if slurm else "local"
    output = settings.pop("submitit_folder") or f"{folder}/.submitit/%j"
    settings["name"] = settings["name"] or request["name"]
    own = {"slurm_max_num_timeout": settings.pop("max_num_timeout")} if slurm else {}
    executor = submitit.AutoExecutor(output, cluster=cluster, **own)
    shared = executor._typed_parameters()
    executor.update_parameters(**{n if n in shared else f"{cluster}_{n}": v for n, v in settings.items()})
    queued = queued_jobs(folder.parent) if slurm else {}
    waiting = [run for run in request["runs"] if run not in queued]
    jobs = executor.map_array(Task(str(folder)), waiting) if waiting else []
    if slurm:
        write_json(folder / SUBMITTED, {run: job.job_id for run, job in zip(waiting, jobs, strict=True)})
    queue, left = _Queue(), {job for run, job in queued.items() if run in request["runs"]}
    while any(job in queue for job in left):
        time.sleep(1)
    gone: dict[str, float] = {}
    while jobs:
        jobs = [job for job in jobs if not (_over(job, queue, gone) if slurm else job.done())]
        time.sleep(WATCH_SECONDS)


def _over(job: Any, queue: _Queue, gone: dict[str, float]) -> bool:
    """Whether a job of Slurm has ended. gone: job -> since when the queue has not had it."""
    if job.job_id in queue:
        gone.pop(job.job_id, None)
        return False
    since = gone.setdefault(job.job_id, time.monotonic())
    return job.paths.result_pickle.exists() or time.monotonic() - since > DISK_SECONDS


def _on_ray(place: str, runs: list[str], init: dict[str, Any], remote: dict[str, Any]) -> None:
    """init, remote: arguments of ray.init and ray.remote. Ray's dashboard is for people who ask for it."""
    import ray

    if init.get("address") in (None, "local") and "RAY_ADDRESS" not in os.environ:
        init = {"include_dashboard": False, "object_store_memory": OBJECT_STORE, **init}
    ray.init(**init)
    task = ray.remote(**remote)(in_own_process) if remote else ray.remote(in_own_process)
    for job in [task.remote(place, run) for run in runs]:
        try:
            ray.get(job)
        except Exception:  # its worker is gone; the others go on
            traceback.print_exc()


@dataclass(frozen=True)
class Task:
    """A job of submitit: a process made for it alone, to which Slurm's signals go. `checkpoint` lets it be queued again."""

    place: str

    def __call__(self, run: str) -> int:
        return run_here(self.place, run, _at_home(self.place)["force"])

    def checkpoint(self, run: str) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run)


def _at_home(place: str) -> dict[str, Any]:
    """The request, once folder and import path are those that kdrun was started with."""
    request = read_json(Path(place) / REQUEST)
    sys.path += [entry for entry in request["path"] if entry not in sys.path]
    if os.path.isdir(request["cwd"]):
        os.chdir(request["cwd"])
    return request


def in_own_process(place: str, run: str) -> int:
    """A job in a worker of Ray, which is used again: it gets a process of its own. Returns its exit code."""
    from kdrun.processes.pool import oom_kills
    from kdrun.sweep.pool import record_death

    request = _at_home(place)
    if (Path(place) / STOP).exists():
        return 128 + signal.SIGTERM
    arguments = (place, run, request["force"])
    # os._exit: the interpreter's own end takes seconds once torch is loaded, and nothing is left to do.
    text = START.format(path=sys.path, function="run_here", arguments=arguments, leave="os._exit")
    kills = oom_kills()
    code = subprocess.call([sys.executable, "-c", text], stdin=subprocess.DEVNULL)
    if code < 0:
        record_death(Path(run), code, oom_kills() > kills)
    return code if code >= 0 else 1


def run_here(place: str, run: str, force: bool) -> int:
    """Run a frozen job in this process. It stops, its state saved, when it is asked to or its parent is gone."""
    from kdrun.sweep.worker import run_frozen

    stop = Path(place) / STOP
    if stop.exists():
        return 128 + signal.SIGTERM
    asked = threading.Event()
    requeue = _save_before_requeue(asked) if "SUBMITIT_EXECUTOR" in os.environ else None
    threading.Thread(target=_watch, args=(stop, asked, os.getppid()), daemon=True).start()
    try:
        code = run_frozen(run, force=force)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    if requeue and code >= 128 and not stop.exists():
        requeue()
    return code


def _watch(stop: Path, asked: threading.Event, parent: int) -> None:
    while not stop.exists() and os.getppid() == parent and not asked.wait(WATCH_SECONDS):
        pass
    while not _ask_to_save():
        time.sleep(0.05)


def _ask_to_save() -> bool:
    """Send SIGTERM to this process once a run listens; nothing where one has come already: a second interrupts at once."""
    from kdrun.job.progress import Signals

    listener = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(listener, Signals) and listener.received is None:
        os.kill(os.getpid(), signal.SIGTERM)
    return isinstance(listener, Signals)


def _save_before_requeue(asked: threading.Event) -> Callable[[], None]:
    """submitit queues a job again when its time is up or it was preempted (`max_num_timeout`), told by a signal.

    Here that signal sets `asked`, for the state to be saved first; the returned function then does what submitit would
    have done at once. A preempted job hears SIGTERM first, which is all that a cancelled one hears: so it waits a while.
    """
    from submitit import JobEnvironment

    number = JobEnvironment._usr_sig()
    queue_again = signal.signal(number, lambda *_: asked.set())

    def requeue() -> None:
        if asked.wait(REQUEUE_SECONDS if os.environ["SUBMITIT_EXECUTOR"] == "slurm" else 0.0) and callable(queue_again):
            queue_again(number, None)

    return requeue


def _end_with_kdrun(folder: Path, launcher: str) -> None:
    while os.read(0, 1):  # not sys.stdin: a thread that reads it holds a lock the interpreter wants at its end
        pass
    if launcher == SLURM:
        os._exit(0)
    (folder / STOP).touch()


def queued_jobs(launches: Path) -> dict[str, str]:
    """run folder -> Slurm job, for jobs that earlier launches of a sweep submitted and that have not ended."""
    files = sorted(launches.glob(f"*/{SUBMITTED}"), key=lambda file: int(file.parent.name))
    known = {run: job for file in files for run, job in read_json(file).items()}
    queue = squeue() if known else set()
    return {run: job for run, job in known.items() if job in queue}


def squeue() -> set[str]:
    """Slurm jobs of this user that wait or run, one entry for each job of an array. Raises what goes wrong."""
    from getpass import getuser

    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getuser()}"]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())


class _Queue:
    """Whether jobs are still in Slurm's queue, asked every QUEUE_SECONDS. While Slurm does not answer they are."""

    def __init__(self) -> None:
        self._asked, self._jobs = -QUEUE_SECONDS, None

    def __contains__(self, job: str) -> bool:
        if time.monotonic() - self._asked > QUEUE_SECONDS:
            self._jobs = None
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                self._jobs = squeue()
            self._asked = time.monotonic()
        return self._jobs is None or job in self._jobs
