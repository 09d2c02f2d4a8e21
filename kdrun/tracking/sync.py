"""Send runs to W&B later: whatever a mirror left in offline folders, and what a hanging mirror never wrote there.

May be repeated at will: W&B's id of a run comes from its job hash, sent folders are noted in tracking/sync.json, and
W&B's own marker (`.wandb.synced`) is believed too. A folder counts as sent only with that marker: `wandb sync` ends
with status 0 in cases where it sent nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json
from kdrun.tracking.mirror import FOLDER, SETTINGS, launch, mirror_environment, read_state
from kdrun.tracking.record import now
from kdrun.tracking.registry import RunInfo, is_locked

SENT_FILE, SYNC_LOG = "sync.json", "sync.log"
SENT, NOTHING, SKIPPED, FAILED = "sent", "nothing to send", "skipped", "failed"


@dataclass(frozen=True)
class Outcome:
    """What `sync_run` did. `folders` counts W&B folders that were sent now."""

    id: str
    status: str
    folders: int = 0
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def sync_run(info: RunInfo) -> Outcome:
    """Send what is not there yet. Never raises for a run: the next one shall have its turn."""
    if info.record is None:
        return Outcome(info.id, FAILED, problem=info.problem)
    if not (info.dir / FOLDER / SETTINGS).exists():
        return Outcome(info.id, NOTHING, problem="it ran without a tracker")
    if is_locked(info.dir):
        return Outcome(info.id, SKIPPED, problem="it is running")
    try:
        if not is_complete(info) and (problem := _replay(info.dir)):
            return Outcome(info.id, FAILED, problem=problem)
        folders = pending(info.dir)
        if not folders:
            return Outcome(info.id, NOTHING)
        problem = _send(info.dir, folders)
        left = pending(info.dir)
        problem = problem or (f"`wandb sync` left {len(left)} of {len(folders)} folders" if left else None)
        return Outcome(info.id, FAILED if problem else SENT, len(folders) - len(left), problem)
    except (OSError, ValueError) as error:
        return Outcome(info.id, FAILED, problem=str(error))


def is_complete(info: RunInfo) -> bool:
    """Whether the mirror of the last attempt wrote everything, to W&B or to an offline folder."""
    state = read_state(info.dir)
    return bool(state.get("finished")) and state.get("attempt") == len((info.record or {}).get("attempts", []))


def pending(folder: Path) -> list[Path]:
    """W&B folders of a run that have not been sent, oldest first (the name begins with the time)."""
    known = sent_folders(folder)
    found = [path for path in (folder / "wandb").glob("*run-*-*") if path.is_dir() and not path.is_symlink()]
    unsent = [path for path in found if path.name not in known and not _has_marker(path)]
    return sorted(unsent, key=lambda path: path.name.removeprefix("offline-"))


def sent_folders(folder: Path) -> dict[str, str]:
    """name of a W&B folder -> when it was sent."""
    try:
        return read_json(folder / FOLDER / SENT_FILE)
    except (OSError, ValueError):
        return {}


def note_sent(folder: Path, names: list[str]) -> None:
    """Remember that these W&B folders have been sent."""
    write_json(folder / FOLDER / SENT_FILE, sent_folders(folder) | dict.fromkeys(names, now()))


def _has_marker(path: Path) -> bool:
    return any(path.glob("*.wandb.synced"))


def _replay(folder: Path) -> str | None:
    """Let a mirror write the rows W&B has not had into an offline folder. Returns the problem, if any."""
    process = launch(folder, "--replay")
    try:
        status = process.wait()
    except BaseException:
        process.kill()
        raise
    if status == 0:
        return None
    return read_state(folder).get("problem") or f"the mirror failed, see {folder / FOLDER / 'mirror.log'}"


def _send(folder: Path, folders: list[Path]) -> str | None:
    """One `wandb sync` for all folders of the run, which are attempts of one W&B run and are sent in this order."""
    command = [*wandb_command(), "sync"]
    if not all(path.name.startswith("offline-") for path in folders):
        command.append("--include-online")
    environment = {name: value for name, value in mirror_environment().items() if name != "WANDB_MODE"}
    result = subprocess.run(
        [*command, *(os.path.abspath(path) for path in folders)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder / FOLDER,
        env=environment,
    )
    output = result.stdout.decode(errors="replace")
    with open(folder / FOLDER / SYNC_LOG, "a", encoding="utf-8") as log:
        log.write(f"{now()} {' '.join(path.name for path in folders)}\n{output}")
    note_sent(folder, [path.name for path in folders if _has_marker(path)])
    if result.returncode == 0:
        return None
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else f"`wandb sync` ended with status {result.returncode}"


def wandb_command() -> list[str]:
    """The `wandb` on PATH, else the one beside this Python."""
    found = shutil.which("wandb") or shutil.which("wandb", path=str(Path(sys.executable).parent))
    return [found] if found else [sys.executable, "-P", "-m", "wandb"]
