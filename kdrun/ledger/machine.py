"""What this machine says it is, found without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path


def machine_words() -> list[str]:
    """What this machine says it is: processor, board, NVIDIA GPUs; no host name. Linux files where they are."""
    words = [platform.processor()]
    words += [
        line.partition(":")[2].strip() for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")
    ]
    words.append(_text("/proc/device-tree/model").strip("\0\n "))
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        words += [line.partition(":")[2].strip() for line in _text(file).splitlines() if line.startswith("Model:")]
    return sorted({word for word in words if word})


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, without importing torch; [] where there is none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    return [str(number) for number, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU ")]
