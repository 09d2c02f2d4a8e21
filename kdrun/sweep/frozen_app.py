"""What runs on the other side of a launcher: the process that calls Hydra's plugin, and the task it runs once per job.

The Hydra app is as small as can be: its config is `run: ???` and `force`, and each job overrides `run` with the folder
in which its config lies frozen. Everything else is in `request.json` of the launch's folder, which all processes read
from the shared file system. There, a file called `stop` asks every job to save its state and end.
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
from functools import partial
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json

REQUEST, RESULT, SUBMITTED, STOP = "request.json", "result.json", "submitted.json", "stop"
SLURM = "submitit_slurm"
WATCH_SECONDS = 0.5
QUEUE_SECONDS, DISK_SECONDS = 10.0, 15.0
"""How often squeue is asked; how long a result may take to appear on a shared file system after its job has ended."""
REQUEUE_SECONDS = 30.0
"""Between SIGTERM and the signal by which submitit queues a preempted job again."""

START = (
    "import os, sys; sys.path[:] = {path!r}; from kdrun.sweep.frozen_app import {function}; "
    "code = {function}(*{arguments!r}); sys.stdout.flush(); sys.stderr.flush(); {leave}(code)"
)
"""Python text that calls a function of this module with the import path of whoever starts it."""


def call_plugin(place: str) -> int:
    """Give the jobs of `place`/request.json to the plugin, wait for them, write {"codes", "error"} to result.json.

    codes: number -> exit code, None for a job whose process died. Its standard input ends when kdrun is gone: jobs on
    this machine are then stopped, those in Slurm's queue go on.
    """
    folder = Path(place)
    request = read_json(folder / REQUEST)
    threading.Thread(target=_end_with_kdrun, args=(folder, request["launcher"]), daemon=True).start()
    result: dict[str, Any] = {"codes": {}, "error": None}
    try:
        queued = queued_jobs(folder.parent) if request["launcher"] == SLURM else {}
        numbers = [number for number, run in request["folders"].items() if run not in queued]
        returned = _launched(folder, request, numbers) if numbers else []
        result["codes"] = {number: _code(job) for number, job in zip(numbers, returned, strict=True)}
        queue = _Queue()
        while any(queued[run] in queue for run in request["folders"].values() if run in queued):
            time.sleep(1)
    except Exception as error:
        traceback.print_exc()
        result["error"] = {"type": type(error).__name__, "message": str(error)}
    write_json(folder / RESULT, result)
    return 0


def _launched(folder: Path, request: dict[str, Any], numbers: list[str]) -> list[Any]:
    """Compose the app, make the plugin's launcher and let it run; one JobReturn (None: its process died) per number."""
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode
    from omegaconf import OmegaConf

    from kdrun.sweep import frozen_app

    with initialize_config_dir(str(folder), job_name=request["name"], version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        overrides = [
            f"hydra/launcher={request['launcher']}",
            "hydra/job_logging=none",
            "hydra.output_subdir=null",
            "hydra.job.chdir=false",
            f"hydra.sweep.dir={quoted(folder)}",
            "hydra.sweep.subdir=.",
        ]
        config = hydra.compose_config("app", overrides, RunMode.MULTIRUN, with_log_configuration=True)
        for key, value in request["settings"].items():
            OmegaConf.update(config.hydra.launcher, key, value, force_add=True)
        plugin = Plugins.instance().instantiate_launcher(
            HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)),
            task_function=partial(frozen_app.task, place=str(folder)),
            config=config,
        )
        runs = [request["folders"][number] for number in numbers]
        if request["launcher"] == "ray":
            _outlive_dead_ray_jobs()
        elif request["launcher"].startswith("submitit"):
            _outlive_dead_submitit_jobs(partial(_remember, folder, runs) if request["launcher"] == SLURM else list)
        return list(plugin.launch([[f"run={quoted(run)}"] for run in runs], initial_job_idx=0))


def _remember(folder: Path, runs: list[str], ids: list[str]) -> None:
    write_json(folder / SUBMITTED, dict(zip(runs, ids, strict=True)))


def task(config: Any, place: str) -> int:
    """The task function: one job, in a process that the engine made. Returns its exit code.

    submitit's processes are made for one job each, and Slurm's signals go to them. Those of joblib and Ray are used
    again, and joblib ends all of them when one dies: there the job gets a process of its own.
    """
    from kdrun.processes.pool import oom_kills
    from kdrun.sweep.pool import record_death

    folder = Path(place)
    request = read_json(folder / REQUEST)
    sys.path += [entry for entry in request["path"] if entry not in sys.path]
    if os.path.isdir(request["cwd"]):
        os.chdir(request["cwd"])
    if request["launcher"].startswith("submitit"):
        return run_here(place, config.run, bool(config.force))
    if (folder / STOP).exists():
        return 128 + signal.SIGTERM
    arguments = (place, config.run, bool(config.force))
    # os._exit: the interpreter's own end takes seconds once torch is loaded, and nothing is left to do.
    text = START.format(path=sys.path, function="run_here", arguments=arguments, leave="os._exit")
    kills = oom_kills()
    code = subprocess.call([sys.executable, "-c", text], stdin=subprocess.DEVNULL)
    if code < 0:
        record_death(Path(config.run), code, oom_kills() > kills)
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


def _outlive_dead_ray_jobs() -> None:
    """The plugin waits for its jobs in order, and gives up all of them at the first that raises."""
    from types import SimpleNamespace

    import ray
    from hydra_plugins.hydra_ray_launcher import _core

    _core.ray = SimpleNamespace(get=lambda job: _or_none(lambda: ray.get(job)))


def _outlive_dead_submitit_jobs(submitted: Callable[[list[str]], None]) -> None:
    """The same for submitit; `submitted` is called with the ids of the jobs.

    That a job died submitit only learns from sacct, which many clusters do not have; squeue knows what has not ended.
    """
    from types import SimpleNamespace

    import submitit

    class Executor(submitit.AutoExecutor):
        def map_array(self, function: Any, *arguments: Any) -> list[Any]:
            jobs = super().map_array(function, *arguments)
            submitted([job.job_id for job in jobs])
            return [SimpleNamespace(results=lambda job=job: [_or_none(lambda: job.results()[0])]) for job in jobs]

    queue = _Queue()
    submitit.AutoExecutor = Executor
    submitit.SlurmJob.done = lambda job, force_check=False: job.paths.result_pickle.exists() or job.job_id not in queue
    submitit.SlurmJob._results_timeout_s = DISK_SECONDS
    submitit.LocalJob._results_timeout_s = 1


def _or_none(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except Exception:
        traceback.print_exc()
        return None


def _code(job: Any) -> int | None:
    """The exit code in a JobReturn; 1 if the task raised, which is then in the log; None for no JobReturn."""
    from hydra.core.utils import JobStatus

    if job is None:
        return None
    if job.status == JobStatus.COMPLETED:
        return job.return_value
    traceback.print_exception(job._return_value)
    return 1


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


def quoted(value: os.PathLike[str] | str) -> str:
    """A text as one value of Hydra's override grammar."""
    text = os.fspath(value).replace("\\'", "\\\\'").replace("'", "\\'").replace("${", "\\${")
    return f"'{text}'"
