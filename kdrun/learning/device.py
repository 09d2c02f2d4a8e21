"""The hardware target of a run: device, number of devices, precision, threads. torch is imported only to look."""

from __future__ import annotations

import os
from typing import Any

from kdrun.problems import UserError


def resolve(hardware: dict[str, Any]) -> dict[str, Any]:
    """The target with `device: auto` replaced by what is here (cuda, then mps, then cpu).

    Raises UserError for a device, a number of devices or a precision that this machine does not have.
    """
    have = available()
    wanted, devices = hardware["device"], hardware["devices"]
    device = next(iter(have)) if wanted == "auto" else wanted
    if device not in have:
        raise UserError(f"hardware.device={wanted}: not on this machine; here: {', '.join(have)}")
    if devices > have[device]:
        raise UserError(f"hardware.devices={devices}: this machine has {have[device]} ({device})")
    if hardware["precision"] == "fp16" and device == "cpu":
        raise UserError("hardware.precision=fp16 needs a GPU; on a CPU use fp32 or bf16")
    return {**hardware, "device": device}


def foreseen(hardware: dict[str, Any]) -> dict[str, Any]:
    """As `resolve`, for a plan: a device that is named need not be on this machine, as on the login node of a cluster whose
    compute nodes have it. The job itself resolves its device where it runs."""
    return hardware if hardware["device"] not in ("auto", *available()) else resolve(hardware)


def available() -> dict[str, int]:
    """Kind of device -> how many this machine has, the kind that `auto` takes first."""
    import torch

    have = {}
    if torch.cuda.is_available():
        have["cuda"] = torch.cuda.device_count()
    if torch.backends.mps.is_available():
        have["mps"] = 1
    return {**have, "cpu": os.cpu_count() or 1}


def check_teachers(config: dict[str, Any]) -> None:
    """Raises UserError for a device of a teacher (teacher.device) that this machine does not have."""
    have = available()
    for key, node in {"teacher": config["teacher"], **config.get("assistants", {})}.items():
        if not node.get("device"):
            continue
        kind, _, number = node["device"].partition(":")
        if kind not in have or int(number or 0) >= have[kind]:
            shown = ", ".join(f"{name} (0 to {have[name] - 1})" if name == "cuda" else name for name in have)
            place = key if key == "teacher" else f"assistants.{key}"
            raise UserError(f"{place}.device={node['device']}: not on this machine; here: {shown}")


def apply_threads(hardware: dict[str, Any], most: int | None = None) -> None:
    """Set the thread count of this process, at most `most` where jobs share the cores.

    Two processes whose OpenMP pools spin on two cores are 40 times slower."""
    import torch

    torch.set_num_threads(min(hardware["threads"], most or hardware["threads"]))


def thread_environment(hardware: dict[str, Any]) -> dict[str, str]:
    """Environment for child processes so that their pools are of the right size from the start."""
    count = str(hardware["threads"])
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive"}
