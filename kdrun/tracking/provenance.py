"""Where a result comes from: the command, the commit and its uncommitted changes, versions and machine.

Neither host, user nor folder names are recorded: a record is meant to be handed on with a paper.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from kdrun.files import dump_json, plain, write_atomic
from kdrun.tracking.record import CONFIG, Run
from kdrun.version import __version__

PACKAGES = ("torch", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy", "safetensors", "wandb")
OPTIONAL_PACKAGES = ("torchvision", "timm", "transformers", "scikit-learn")
DIFF_LIMIT = 5_000_000
"""Bytes of a diff that are kept; its sha256 is always that of the whole."""

GIT_SECONDS = 20
NOTHING_RUNS = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
"""A repository that somebody sent has settings of its own, and some of them name programs."""
SUBMODULES = "--ignore-submodules=dirty"
EMPTY = "KDRUN_EMPTY"
TRUSTED = (b"system", b"global", b"command")
"""Scopes of git's settings that come from the user, not from the repository."""


@dataclass(frozen=True)
class Provenance:
    """Collected once per command, so that every job of a sweep records the code the sweep was started with."""

    command: str
    git: dict[str, Any] | None
    versions: dict[str, str | None]
    diffs: dict[str, bytes] = field(default_factory=dict)
    """File name in the run folder -> text of the diff."""

    @classmethod
    def collect(cls, arguments: Sequence[str], folder: str | os.PathLike[str] | None = None) -> Provenance:
        """`arguments`: what was typed after `kdrun`. `folder`: where the user stands (default: current folder)."""
        git: dict[str, Any] = {}
        diffs: dict[str, bytes] = {}
        package = Path(__file__).parent.parent
        own = repository(package) if _is_tracked(package / "__init__.py") else None
        users = repository(Path(folder or Path.cwd()))
        for name, root, file in (("kdrun", own, "git.diff"), ("user", users if users != own else None, "user.diff")):
            if root is None:
                continue
            git[name], diff = git_state(root)
            if diff:
                diffs[file] = diff
        return cls(shlex.join(["kdrun", *arguments]), git or None, package_versions(), diffs)


def write_start(run: Run, job: Any, provenance: Provenance) -> None:
    """Everything that is known before work starts, on the disk before it starts.

    `job`: cells, config, hash, overrides, choices and slug as `kdrun.config.compose.Job` has them.
    """
    config = job.cells[0]
    for file, diff in provenance.diffs.items():
        write_atomic(run.dir / file, diff[:DIFF_LIMIT])
    write_atomic(run.dir / CONFIG, config_text(config))
    run.update(
        name=config.get("name") or job.slug,
        command=provenance.command,
        overrides=list(job.overrides),
        choices=dict(job.choices),
        seeds=[cell["seed"] for cell in job.cells],
        config=config,
        cells={str(cell["seed"]): differences(config, cell) for cell in job.cells},
        git=provenance.git,
        versions=provenance.versions,
        hardware=machine(config.get("hardware", {})),
        auto=getattr(job, "auto", None),
    )


def differences(config: dict[str, Any], cell: dict[str, Any]) -> dict[str, Any]:
    """The top-level entries of `cell` that are not those of `config`. Compared as JSON text: 1 and True differ."""
    if config.keys() != cell.keys():
        raise ValueError("the cells of a job must have the same top-level keys")
    return {key: value for key, value in cell.items() if dump_json(value) != dump_json(config[key])}


def cells_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The exact config of every cell of a record, in the order of its seeds."""
    return [{**record["config"], **record["cells"][str(seed)]} for seed in record["seeds"]]


def config_text(config: dict[str, Any]) -> str:
    """The frozen config of one cell as YAML; loading it with a YAML reader gives an equal mapping."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=120)


def package_versions() -> dict[str, str | None]:
    """name -> version from the installed metadata (nothing is imported); None for what kdrun needs and is missing."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "kdrun": __version__}
    for name in (*PACKAGES, *OPTIONAL_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in PACKAGES:
                versions[name] = None
    return versions


def machine(hardware: dict[str, Any]) -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, and what the config asked for. None = not found out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": cores,
        "memory": _memory(),
        **{key: hardware.get(key) for key in ("name", "device", "devices", "precision", "threads")},
    }


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def repository(folder: Path) -> Path | None:
    """Top folder of the git repository around `folder`; None without one, or without git."""
    output = _git(folder, "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(output).rstrip("\n")) if output else None


def git_state(root: Path) -> tuple[dict[str, Any], bytes]:
    """({"commit", "dirty", "untracked", "diff_sha256"}, diff). commit is None before the first commit.

    `untracked` counts files git does not know and does not ignore: they are dirt no diff shows.
    """
    commit = (_git(root, "rev-parse", "--verify", "-q", "HEAD") or b"").decode().strip() or None
    safe = _without_filters(root)
    status = (_git(root, *safe, "status", "--porcelain", "-z", "--no-renames", SUBMODULES) or b"").split(b"\0")
    entries = [entry for entry in status if entry]
    untracked = sum(entry.startswith(b"??") for entry in entries)
    shown = ("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", SUBMODULES)
    diff = (_git(root, *safe, *shown) or b"") if commit else b""
    return {
        "commit": commit,
        "dirty": bool(entries) or any(git_state(folder)[0]["dirty"] for folder in _submodules(root)),
        "untracked": untracked,
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }, diff


def _submodules(root: Path) -> list[Path]:
    """Those that are checked out; git would look into them with their own settings."""
    listed = [entry.split(b"\t", 1) for entry in (_git(root, "ls-files", "-s", "-z") or b"").split(b"\0") if entry]
    folders = [root / os.fsdecode(name) for mode, name in listed if mode.startswith(b"160000")]
    return [folder for folder in folders if (folder / ".git").exists()]


def _without_filters(root: Path) -> list[str]:
    """Options of git so that no filter is run that the repository itself brings; those of the user's own settings are."""
    words = (_git(root, "config", "--list", "--name-only", "--show-scope", "-z") or b"").split(b"\0")
    keys = {os.fsdecode(key) for scope, key in zip(words[::2], words[1::2], strict=False) if scope not in TRUSTED}
    names = {key[: key.rindex(".")] for key in keys if key.startswith("filter.")}
    # Not `-c`, which would cut a name that holds a "=".
    return [f"--config-env={name}.{key}={EMPTY}" for name in sorted(names) for key in ("clean", "process", "required")]


def _is_tracked(file: Path) -> bool:
    """False for a kdrun installed into a virtual environment that lies inside somebody's repository."""
    return _git(file.parent, "ls-files", "--error-unmatch", "--", file.name) is not None


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Standard output, or None when git is missing, fails or takes too long. Takes no lock in the repository."""
    try:
        result = subprocess.run(
            ["git", "-C", os.fspath(folder), *NOTHING_RUNS, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            env=_git_environment(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout if result.returncode == 0 else None


def _git_environment() -> dict[str, str]:
    """Without the variables a git hook sets, which would point every call at the hook's repository; and nothing is fetched."""
    misleading = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    kept = {name: value for name, value in os.environ.items() if name not in misleading}
    nothing_fetched = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": ""}  # a remote may be a program, too
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat", EMPTY: "", **nothing_fetched}
