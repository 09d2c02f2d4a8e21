"""Sweeps beyond one machine, by the launcher plugins of Hydra: joblib, submitit (local, Slurm) and Ray.

kdrun has planned the sweep and frozen every config. The plugin runs a minimal app (see frozen_app.py) in a process of
its own, so that its logging, its singletons, its workers and their end are no matter of the process that waits here.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_atomic, write_json
from kdrun.problems import Problems, UserError, closest, listed
from kdrun.sweep.frozen_app import REQUEST, RESULT, SLURM, START, STOP, queued_jobs
from kdrun.tracking.mirror import mirror_environment
from kdrun.tracking.record import DONE, INTERRUPTED, RUNNING, read_record
from kdrun.tracking.registry import is_locked

PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    SLURM: "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}
"""launcher -> the package that has its plugin."""

POLL_SECONDS, PROBE_SECONDS = 0.5, 5.0
PREFIX = "hydra.launcher."
GPUS = {
    "submitit_local": ("gpus_per_node",),
    SLURM: ("gpus_per_node", "gpus_per_task", "gres"),
    "ray": ("ray.remote.num_gpus",),
}
"""launcher -> its settings that say how many GPUs a job gets, the usual one first."""


def check(launcher: str, settings: Sequence[str] = (), devices: int = 0, nodes: int = 1) -> dict[str, Any]:
    """{dotted key below hydra.launcher: value}, checked against the types of the plugin's config.

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
    usual, *others = GPUS.get(launcher, ("",))
    if usual and devices and not any(values.get(key) for key in (usual, *others)):
        values |= {} if "gpu" in str(values.get("additional_parameters")) else {usual: devices}
    elif isinstance(count := values.get(usual), int) and count < devices:
        problems.add(
            f"{PREFIX}{usual}={count}: a job uses {devices} GPUs (hardware.devices)", f"{PREFIX}{usual}={devices}"
        )
    problems.stop()
    return values


def _schema(launcher: str) -> Any:
    """The plugin's config with its types, from Hydra's store of configs."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigLoadError

    if launcher == "ray_aws":
        raise UserError(
            "hydra/launcher=ray_aws: machines that it starts share no folder with this one",
            "start a Ray cluster on a shared file system: hydra/launcher=ray hydra.launcher.ray.init.address=HOST:PORT",
        )
    if launcher not in PLUGINS:
        raise UserError(f"no launcher {launcher!r}{closest(launcher, PLUGINS)}; all: {listed(PLUGINS)}")
    Plugins.instance()  # every plugin stores its config when it is found
    try:
        return ConfigStore.instance().load(f"hydra/launcher/{launcher}.yaml").node
    except ConfigLoadError:
        raise UserError(
            f"hydra/launcher={launcher}: its plugin is not installed", f"pip install {PLUGINS[launcher]}"
        ) from None


def _value(word: str, launcher: str, schema: Any, problems: Problems) -> tuple[str, Any] | None:
    """(key, value) of one word; None, with the problem added, where it cannot be used."""
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
    key, known = key.removeprefix(PREFIX), _keys(schema)
    try:
        if key.partition(".")[0] == "_target_":
            raise ConfigKeyError(key)
        OmegaConf.update(copy.deepcopy(schema), key, value)
    except (ConfigKeyError, ConfigAttributeError):
        problems.add(f"{word}: {launcher} has no setting {key!r}{closest(key, known)}", f"all: {listed(known, 30)}")
    except OmegaConfBaseException as error:
        problems.add(f"{word}: {str(error).splitlines()[0]}")
    return key, value


def _keys(schema: Any, above: str = "") -> list[str]:
    """Dotted keys of a plugin's config; `ray.init.KEY` where any key may be given."""
    from omegaconf import OmegaConf

    found = []
    for name in schema:
        node = schema._get_node(name)
        if not OmegaConf.is_dict(node):
            found += [f"{above}{name}"] if name != "_target_" else []
        elif OmegaConf.get_type(node) is dict:
            found.append(f"{above}{name}.KEY")
        else:
            found += _keys(node, f"{above}{name}.")
    return found


def launch(
    folders: dict[int, Path],
    launcher: str,
    settings: Sequence[str],
    sweep_folder: Path,
    force: bool = False,
    report: Callable[[dict[str, Any]], None] | None = None,
    devices: int = 0,
    nodes: int = 1,
) -> dict[int, int]:
    """Run the frozen jobs of these run folders (job number -> folder) and return number -> exit code.

    0 done, 1 not done, 2 a mistake in the config that only showed now; how a job ended is in its record. 130 or 143 is the
    code of all jobs that are not done when SIGINT or SIGTERM stopped the launch. Jobs on this machine and on Ray then
    save their state and end; jobs in Slurm's queue go on, and how to cancel them is printed. A second SIGINT ends what
    runs on this machine at once.

    sweep_folder  everything of Hydra's and the engine's lies below its `launcher/N`, a new N for each launch
    report        called with {"kind": "start" | "end", "number"}; at the end with "status" and "error" as well
    devices, nodes  GPUs that a job uses, and nodes that it is over, see `check`

    Raises UserError if the engine could not start a single job.
    """
    from kdrun.job.progress import Signals

    values = check(launcher, settings, devices, nodes)
    sweep_folder = Path(sweep_folder).absolute()
    followed = {number: _Followed(Path(folder).absolute()) for number, folder in folders.items()}
    place = _place(sweep_folder)
    write_atomic(place / "app.yaml", f"run: ???\nforce: {str(bool(force)).lower()}\n")
    request = {
        "launcher": launcher,
        "name": sweep_folder.name,
        "settings": _own_settings(launcher, values) | values,
        "folders": {str(number): str(job.folder) for number, job in followed.items()},
        "path": _import_path(),
        "cwd": os.getcwd(),
    }
    write_json(place / REQUEST, request)
    text = START.format(path=_import_path(), function="call_plugin", arguments=(str(place),), leave="sys.exit")
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
    return _codes(place, launcher, followed, stopped)


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


def _codes(place: Path, launcher: str, followed: dict[int, _Followed], stopped: int) -> dict[int, int]:
    result = read_json(place / RESULT) if (place / RESULT).is_file() else None
    problem = result["error"] if result else not stopped and {"type": "error", "message": "it ended without a result"}
    if problem:
        first = (str(problem["message"]).splitlines() or [""])[0]
        lines = [f"hydra/launcher={launcher}: {problem['type']}: {first}", f"its log: {place / 'launcher.log'}"]
        if not stopped and not any(job.began for job in followed.values()):
            raise UserError(*lines)
        print(*(f"kdrun: {line}" for line in lines), sep="\n", file=sys.stderr)
    codes = {}
    for number, job in followed.items():
        code = (result or {"codes": {}})["codes"].get(str(number))
        if code is None:  # no answer: its process died, or nobody waits for it any more
            code = 0 if job.record.get("status") == DONE else 1
        codes[number] = code if code in (0, 2) else stopped or 1
    return codes


def _place(sweep_folder: Path) -> Path:
    """A new folder `launcher/N`, N counted from 1."""
    launches = sweep_folder / "launcher"
    launches.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in launches.iterdir() if path.name.isdigit()), default=0)
    while True:
        with contextlib.suppress(FileExistsError):
            (launches / str(number)).mkdir()
            return launches / str(number)
        number += 1


def _own_settings(launcher: str, values: dict[str, Any]) -> dict[str, Any]:
    """Ray's dashboard is for people who ask for it. The plugin's default for `object_store_memory` starts a small Ray
    here, and is an error where one is joined."""
    if launcher != "ray":
        return {}
    joined = values.get("ray.init.address") not in (None, "local") or "RAY_ADDRESS" in os.environ
    return {"ray.init.object_store_memory": None} if joined else {"ray.init.include_dashboard": False}


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
