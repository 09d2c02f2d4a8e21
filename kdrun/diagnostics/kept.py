"""`RUN/diagnosis.json`: what was measured of a run's pairs of student and teacher, and `RUN/diagnosis-CHOICE.json` of another arm, seed
or epoch, so that figures are of one choice. No torch.

{"run", "arm", "teacher": role, "settings", "pairs": [one for each seed], "ensemble"}

    pairs     {"seed", "which", "k_hat", "k_reverse", "agreement", "bound", "slack", "samples": of test,
              "student", "teacher": {"fingerprint", "which", "train", "test", "gap", "variance", "samples": of training,
              "sharpness": {"gaussian", "ascent"}, "features": {"width", "rank", "effective"} or None, "networks": of several at once}}
    ensemble  {"student", "teacher": {"members", "loss", "bias", "variance"}} or {"why": it is not known}

Every number is defined in docs/diagnostics.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json
from kdrun.problems import UserError, closest, listed
from kdrun.records import own_arm
from kdrun.tracking.record import DONE
from kdrun.tracking.registry import RunInfo

FILE = "diagnosis.json"
TEACHER = "teacher"
Diagnosis = dict[str, Any]

_NUMBER = (float, int)
_SHARES = ("disagree", "both_right", "only_student", "only_teacher", "same_wrong", "different_wrong")
_NETWORK = {
    **dict.fromkeys(("fingerprint", "which"), str),
    **dict.fromkeys(("train", "test", "gap"), _NUMBER),
    "sharpness": dict.fromkeys(("gaussian", "ascent"), _NUMBER),
    "features": (None, dict.fromkeys(("width", "rank", "effective"), _NUMBER)),
}
_MEMBERS = (None, dict.fromkeys(("bias", "variance"), _NUMBER))
_DIAGNOSIS = {
    **dict.fromkeys(("run", "arm", "teacher"), str),
    "pairs": [
        {
            **dict.fromkeys(("seed", "samples"), int),
            **dict.fromkeys(("k_hat", "k_reverse", "bound", "slack"), _NUMBER),
            "agreement": dict.fromkeys(_SHARES, _NUMBER),
            "student": _NETWORK,
            TEACHER: _NETWORK,
        }
    ],
    "ensemble": {"student": _MEMBERS, TEACHER: _MEMBERS},
}
"""The shape of what is kept; see _fits."""


def file_of(options: Mapping[str, str]) -> str:
    """The file of a choice of arm, teacher, seed and epoch, as typed: `diagnosis.json` of none, `diagnosis-arm=alone.json`."""
    chosen = "".join(f"-{key}={options[key]}" for key in sorted(options))
    return FILE.replace(".", f"{chosen}.")


def read(run: Path, file: str = FILE) -> Diagnosis | None:
    """The diagnosis of a run folder; None where there is none, it cannot be read, or it is not one."""
    try:
        found = read_json(run / file)
    except (OSError, ValueError):
        return None
    return found if _fits(found, _DIAGNOSIS) else None


def _fits(value: Any, shape: Any) -> bool:
    """Whether a value is of one of these types, or has these entries, or is a list of at least one such value."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_fits(value.get(key), inner) for key, inner in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and bool(value) and all(_fits(each, shape[0]) for each in value)
    if isinstance(shape, tuple):
        return any(_fits(value, each) for each in shape)
    return value is None if shape is None else isinstance(value, shape) and not isinstance(value, bool)


def keep(run: Path, diagnosis: Diagnosis, file: str = FILE) -> None:
    write_json(run / file, diagnosis)


def roles_of(run: RunInfo, arm: str | None, teacher: str | None) -> tuple[str, str]:
    """(arm, role of its teacher) of a run that has finished stages of both. UserError otherwise."""
    record = run.known_record()
    roles = list(dict.fromkeys(stage["role"] for stage in record.get("stages") or []))
    if not roles:
        raise UserError(f"{run.id} ({run.status}) has no finished stage yet", f"to continue it: kdrun rerun {run.id}")
    arm, teacher = arm or own_arm(record), teacher or TEACHER
    for key, role in (("arm", arm), ("teacher", teacher)):
        if role not in roles:
            there = listed(roles)
            hint = f"name who teaches, teacher=ROLE; {run.id} has: {there}" if key == "teacher" else f"it has: {there}"
            more = [] if run.status == DONE else [f"it is {run.status}; to continue it: kdrun rerun {run.id}"]
            what = "arm" if key == "arm" else "stage"
            raise UserError(f"{run.id} has no {what} {role!r}{closest(role, roles)}", hint, *more)
    if arm == teacher:
        raise UserError(f"arm={arm}: a network is not held against itself", f"{run.id} has: {listed(roles)}")
    return arm, teacher


def figures(pair: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of one pair by flat names: "student gap", "teacher gaussian", "k_hat", "disagree" ...; None: not known."""
    found: dict[str, float | None] = {name: pair[name] for name in ("k_hat", "k_reverse", "bound", "slack")}
    found |= pair["agreement"]
    for who in ("student", TEACHER):
        own = pair[who]
        found |= {f"{who} {name}": own[name] for name in ("train", "test", "gap")}
        found |= {f"{who} {name}": value for name, value in own["sharpness"].items()}
        features = own["features"] or {}
        found |= {f"{who} {name}": features.get(name) for name in ("width", "rank", "effective")}
    return found


def over_seeds(diagnosis: Mapping[str, Any]) -> dict[str, tuple[float, float | None] | None]:
    """Name -> (mean, sample deviation or None) over the pairs; None where a pair lacks it."""
    rows = [figures(pair) for pair in diagnosis["pairs"]]
    found: dict[str, tuple[float, float | None] | None] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        known = [value for value in values if value is not None]
        several = len(known) > 1
        found[name] = (
            (statistics.fmean(known), statistics.stdev(known) if several else None)
            if known and len(known) == len(values)
            else None
        )
    return found
