"""The hardware target of a run: device, number of devices, precision, threads. torch is imported only to look."""

from __future__ import annotations

import os
from typing import Any

from kdrun.problems import UserError


def resolve(hardware: dict[str, Any]) -> dict[str, Any]:
    """The target with `device: auto` replaced by what is here (cuda, then mps, then cpu).

    Raises UserError for a device, a number of devices or a precision that this machine does not have.
    """
    import torch

    have = {"cpu": os.cpu_count() or 1}
    if torch.cuda.is_available():
        have["cuda"] = torch.cuda.device_count()
    if torch.backends.mps.is_available():
        have["mps"] = 1
    wanted, devices = hardware["device"], hardware["devices"]
    device = next(name for name in ("cuda", "mps", "cpu") if name in have) if wanted == "auto" else wanted
    if device not in have:
        raise UserError(f"hardware.device={wanted}: not on this machine; here: {', '.join(have)}")
    if devices > have[device]:
        raise UserError(f"hardware.devices={devices}: this machine has {have[device]} ({device})")
    if hardware["precision"] == "fp16" and device == "cpu":
        raise UserError("hardware.precision=fp16 needs a GPU; on a CPU use fp32 or bf16")
    return {**hardware, "device": device}


def apply_threads(hardware: dict[str, Any], most: int | None = None) -> None:
    """Set the thread count of this process, at most `most` where jobs share the cores.

    Two processes whose OpenMP pools spin on two cores are 40 times slower."""
    import torch

    torch.set_num_threads(min(hardware["threads"], most or hardware["threads"]))


def thread_environment(hardware: dict[str, Any]) -> dict[str, str]:
    """Environment for child processes so that their pools are of the right size from the start."""
    count = str(hardware["threads"])
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive"}
