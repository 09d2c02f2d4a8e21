"""Sweeps beyond one machine, by submitit (Slurm, or this machine to try it out) and Ray.

kdrun has planned the sweep and frozen every config. A process of its own hands the jobs over (see launched.py), so that the
engine's logging, workers and end are no matter of the process that waits here, which follows the records of the runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from kdrun.files import write_json
from kdrun.problems import Problems, UserError, closest, listed
from kdrun.sweep.launched import REQUEST, SLURM, START, STOP, queued_jobs
from kdrun.tracking.mirror import mirror_environment
from kdrun.tracking.record import DONE, INTERRUPTED, RUNNING, read_record
from kdrun.tracking.registry import is_locked

POLL_SECONDS, PROBE_SECONDS = 0.5, 5.0
PREFIX = "hydra.launcher."


@dataclass
class OnThisMachine:
    """Settings of submitit for any machine. submitit_folder: None for `.submitit/%j` of the launch; name: None for the sweep's."""

    submitit_folder: str | None = None
    timeout_min: int = 60
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int = 1
    mem_gb: int | None = None
    nodes: int = 1
    name: str | None = None
    stderr_to_stdout: bool = False


@dataclass
class OnSlurm(OnThisMachine):
    """Those of Slurm beside them; what has none goes through additional_parameters."""

    partition: str | None = None
    qos: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    account: str | None = None
    signal_delay_s: int = 120
    max_num_timeout: int = 0
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    array_parallelism: int = 256
    setup: list[str] | None = None


@dataclass
class RayCalls:
    """Arguments of ray.init and of ray.remote."""

    init: dict[str, Any] = field(default_factory=dict)
    remote: dict[str, Any] = field(default_factory=dict)


@dataclass
class OnRay:
    ray: RayCalls = field(default_factory=RayCalls)


@dataclass(frozen=True)
class Launcher:
    """package: to be installed. settings: their names and types. gpus: those that say how many GPUs a job gets, the usual one first."""

    package: str
    settings: type
    gpus: tuple[str, ...]


LAUNCHERS = {
    "submitit_local": Launcher("submitit", OnThisMachine, ("gpus_per_node",)),
    SLURM: Launcher("submitit", OnSlurm, ("gpus_per_node", "gpus_per_task", "gres")),
    "ray": Launcher("ray", OnRay, ("ray.remote.num_gpus",)),
}
INSTEAD = {
    "joblib": ("on this machine jobs=N runs N jobs at a time, and gives each GPUs of its own",),
    "ray_aws": (
        "machines that it starts share no folder with this one",
        "start a Ray cluster on a shared file system: hydra/launcher=ray hydra.launcher.ray.init.address=HOST:PORT",
    ),
}
"""Launchers that Hydra has plugins for -> why they are not used here, and what is."""


def check(launcher: str, settings: Sequence[str] = (), devices: int = 0, nodes: int = 1) -> dict[str, Any]:
    """{dotted key below hydra.launcher: value}, checked against the types of its settings.

    settings: words `hydra.launcher.KEY=VALUE`, as typed. devices: GPUs that a job uses; where they need asking for and no setting
    does, the usual one is among the values. nodes: that a job is over. Raises UserError for a launcher or a setting of it that cannot work.
    Imports neither torch nor the engine.
    """
    schema, problems = _schema(launcher), Problems()
    values = dict(filter(None, [_value(word, launcher, schema, problems) for word in settings]))
    if launcher == SLURM and not (shutil.which("sbatch") and shutil.which("srun")):
        problems.add(
            f"hydra/launcher={launcher}: no sbatch and srun here; start it on a machine that submits to Slurm",
            "on this machine alone: jobs=N",
        )
    if nodes > 1 and launcher != SLURM:
        problems.add(
            f"hardware.nodes={nodes}: hydra/launcher={launcher} starts a job on one node", f"hydra/launcher={SLURM}"
        )
    for key, wanted in {"nodes": nodes, "tasks_per_node": 1}.items():
        if (count := values.get(key, wanted)) != wanted:
            problems.add(
                f"{PREFIX}{key}={count}: a job of kdrun runs on one node unless hardware.nodes says more, as one process of each that "
                "starts its own ranks",
                "several GPUs of a node: hardware.devices=N; several nodes: hardware.nodes=N",
            )
        values |= {key: wanted} if nodes > 1 else {}
    usual, *others = LAUNCHERS[launcher].gpus
    if devices and not any(values.get(key) for key in (usual, *others)):
        values |= {} if "gpu" in str(values.get("additional_parameters")) else {usual: devices}
    elif isinstance(count := values.get(usual), int) and count < devices:
        problems.add(
            f"{PREFIX}{usual}={count}: a job uses {devices} GPUs (hardware.devices)", f"{PREFIX}{usual}={devices}"
        )
    problems.stop()
    return values


def _schema(launcher: str) -> Any:
    """All settings of a launcher with their types and defaults."""
    from omegaconf import OmegaConf

    if launcher in INSTEAD:
        first, *more = INSTEAD[launcher]
        raise UserError(f"hydra/launcher={launcher}: {first}", *more)
    if launcher not in LAUNCHERS:
        raise UserError(f"no launcher {launcher!r}{closest(launcher, LAUNCHERS)}; all: {listed(LAUNCHERS)}")
    if find_spec(package := LAUNCHERS[launcher].package) is None:
        raise UserError(f"hydra/launcher={launcher} needs {package}", f"pip install {package}")
    return OmegaConf.structured(LAUNCHERS[launcher].settings)


def _value(word: str, launcher: str, schema: Any, problems: Problems) -> tuple[str, Any] | None:
    """(key, value) of one word, which `schema` then has; None, with the problem added, where it cannot be used."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    from kdrun.config.overrides import parse

    override = parse(word, problems)
    if override is None:
        return None
    if isinstance(override, tuple):  # a mapping as JSON or Python writes it
        key, value = override
    elif override.is_sweep_override() or override.is_delete():
        problems.add(f"{word}: a sweep has one launcher; give one value")
        return None
    else:
        key, value = override.key_or_group, override.value()
    key = key.removeprefix(PREFIX)
    try:
        OmegaConf.update(schema, key, value)
    except (ConfigKeyError, ConfigAttributeError):
        known = ["ray.init.KEY", "ray.remote.KEY"] if launcher == "ray" else list(schema)
        problems.add(f"{word}: {launcher} has no setting {key!r}{closest(key, known)}", f"all: {listed(known, 30)}")
    except OmegaConfBaseException as error:
        problems.add(f"{word}: {str(error).splitlines()[0]}")
    return key, value


def launch(
    folders: dict[int, Path],
    launcher: str,
    settings: Sequence[str],
    sweep_folder: Path,
    force: bool = False,
    report: Callable[[dict[str, Any]], None] | None = None,
    devices: int = 0,
    nodes: int = 1,
) -> int:
    """Run the frozen jobs of these run folders (job number -> folder); how a job ended is in its record.

    Returns 0, or 130 or 143 where SIGINT or SIGTERM stopped the launch before all were done. Jobs on this machine and on
    Ray then save their state and end; jobs in Slurm's queue go on, and how to cancel them is printed. A second SIGINT
    ends what runs on this machine at once.

    sweep_folder  everything of the engine's lies below its `launcher/N`, a new N for each launch
    report        called with {"kind": "start" | "end", "number"}; at the end with "status" and "error" as well
    devices, nodes  GPUs that a job uses, and nodes that it is over, see `check`

    Raises UserError if the engine could not start a single job.
    """
    from omegaconf import OmegaConf

    from kdrun.job.progress import Signals

    schema = _schema(launcher)
    for key, value in check(launcher, settings, devices, nodes).items():
        OmegaConf.update(schema, key, value)
    sweep_folder = Path(sweep_folder).absolute()
    followed = {number: _Followed(Path(folder).absolute()) for number, folder in folders.items()}
    place = _place(sweep_folder)
    request = {
        "launcher": launcher,
        "name": sweep_folder.name,
        "settings": OmegaConf.to_container(schema),
        "force": bool(force),
        "runs": [str(job.folder) for job in followed.values()],
        "path": _import_path(),
        "cwd": os.getcwd(),
    }
    write_json(place / REQUEST, request)
    text = START.format(path=_import_path(), function="launch_jobs", arguments=(str(place),), leave="sys.exit")
    stopped, probed = 0, time.monotonic()
    with Signals() as signals, open(place / "launcher.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", text],
            stdin=subprocess.PIPE,  # its end tells the process that kdrun is gone
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(launcher),
            start_new_session=True,  # Ctrl-C on a terminal reaches kdrun alone, which asks the jobs to save
        )
        try:
            while process.poll() is None:
                probe = time.monotonic() - probed > PROBE_SECONDS
                probed = time.monotonic() if probe else probed
                _tell_news(followed, report, probe)
                if signals.received and not stopped:
                    stopped = 128 + signals.received
                    process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        except KeyboardInterrupt:
            stopped = 130
        finally:
            _end(process, place, launcher)
    _tell_news(followed, report, probe=launcher != SLURM)
    if stopped and launcher == SLURM:
        _print_how_to_cancel(place)
    if process.returncode and not stopped:
        _tell_error(launcher, place / "launcher.log", any(job.began for job in followed.values()))
    return stopped if any(job.record.get("status") != DONE for job in followed.values()) else 0


class _Followed:
    """A job seen through its record. What an earlier launch left there is no news: `status` is None until it begins."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.record: dict[str, Any] = {}
        self.status: str | None = None
        self._read()
        # A job that runs already (in Slurm, from an earlier launch) is followed from here.
        self._attempts = self._count() - (self.record.get("status") == RUNNING)

    def look(self, probe: bool) -> str | None:
        """The status if it has changed since the last call. probe: also find out whether a running job is alive."""
        self._read()
        if not self.began:
            return None
        before, self.status = self.status, self.record["status"]
        if self.status == RUNNING and (probe or before == INTERRUPTED) and not is_locked(self.folder):
            self.status = INTERRUPTED  # its process is gone
        return self.status if self.status != before else None

    @property
    def began(self) -> bool:
        return self._count() > self._attempts

    def _count(self) -> int:
        return len(self.record.get("attempts") or [])

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.record = read_record(self.folder)


def _tell_news(followed: dict[int, _Followed], report: Callable[[dict[str, Any]], None] | None, probe: bool) -> None:
    for number, job in followed.items():
        before, status = job.status, job.look(probe)
        if status is None or report is None:
            continue
        if before is None or status == RUNNING:
            report({"kind": "start", "number": number})
        if status != RUNNING:
            report({"kind": "end", "number": number, "status": status, "error": job.record.get("error")})


def _tell_error(launcher: str, log: Path, begun: bool) -> None:
    """Tells how the engine failed; raises UserError where no job has begun."""
    last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "no word")
    lines = [f"hydra/launcher={launcher}: {last}", f"its log: {log}"]
    if not begun:
        raise UserError(*lines)
    print(*(f"kdrun: {line}" for line in lines), sep="\n", file=sys.stderr)


def _place(sweep_folder: Path) -> Path:
    """A new folder `launcher/N`, N counted from 1."""
    for number in count(1):
        place = sweep_folder / "launcher" / str(number)
        with contextlib.suppress(FileExistsError):
            place.mkdir(parents=True)
            return place
    raise AssertionError  # count() has no end


def _environment(launcher: str) -> dict[str, str]:
    """What this process has, with kdrun importable; threads that wait do not spin; Ray sends no statistics and keeps to
    this interpreter."""
    own = {"OMP_WAIT_POLICY": "passive"}
    if launcher == "ray":
        own |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    return own | mirror_environment()


def _import_path() -> list[str]:
    """sys.path without relative entries; the current folder at its end."""
    path = [os.path.abspath(entry) for entry in sys.path]
    return list(dict.fromkeys([*path, os.getcwd()]))


def _end(process: subprocess.Popen, place: Path, launcher: str) -> None:
    """However the wait ended: no job runs on for nobody, and no process of ours is left."""
    if not process.stdin.closed:
        process.stdin.close()
    if process.poll() is None:  # interrupted twice, or an error here
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if launcher != SLURM:
        (place / STOP).touch()


def _print_how_to_cancel(place: Path) -> None:
    jobs: dict[str, str] = {}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        jobs = queued_jobs(place.parent)
    if jobs:
        arrays = dict.fromkeys(job.partition("_")[0] for job in jobs.values())
        print(
            f"kdrun: {len(jobs)} Slurm jobs go on without this process; the same command waits for them again",
            f"kdrun: to cancel them: scancel {' '.join(arrays)}",
            sep="\n",
            file=sys.stderr,
        )
