"""Sweeps as the disk shows them: OUTPUTS/sweeps/<name>-<hash8>/sweep.json."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.files import read_json
from kdrun.problems import UserError, closest

SCHEMA = 1
SWEEPS, SWEEP = "sweeps", "sweep.json"


@dataclass(frozen=True)
class SweepInfo:
    """A sweep as the disk shows it."""

    id: str
    dir: Path
    record: dict[str, Any]


def list_sweeps(outputs: str | os.PathLike[str]) -> list[SweepInfo]:
    """All sweeps, the last one used first. What cannot be read is passed over."""
    found = []
    for path in Path(outputs, SWEEPS).glob(f"*/{SWEEP}"):
        try:
            record = read_json(path)
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("schema") == SCHEMA:
            found.append(SweepInfo(path.parent.name, path.parent, record))
    return sorted(found, key=lambda sweep: sweep.record["updated"], reverse=True)


def find_sweep(outputs: str | os.PathLike[str], text: str) -> SweepInfo:
    """The sweep meant by `text`: an id, a unique beginning of one, the path of its folder, or `last`. Else UserError."""
    sweeps = list_sweeps(outputs)
    if text == "last" and sweeps:
        return sweeps[0]
    exact = [s for s in sweeps if s.id == text or os.path.abspath(s.dir) == os.path.abspath(text)]
    matches = exact or [sweep for sweep in sweeps if text and sweep.id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"'{text}' could be {len(matches)} sweeps: {', '.join(s.id for s in matches[:5])}")
    raise UserError(f"no sweep '{text}' in {Path(outputs, SWEEPS)}{closest(text, [sweep.id for sweep in sweeps])}")
