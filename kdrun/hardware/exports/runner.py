"""Peak resident memory of a network in its runtime, from a fresh process that imports nothing else.

python -m kdrun.hardware.exports.runner REQUEST      -> {"peak_kib": n} on standard output
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from kdrun.hardware.exports.artifact import Artifact

RUNTIMES = {"torch": "torch", "onnxruntime": "onnxruntime", "executorch": "executorch.runtime"}
SECONDS = 300


def peak_mb(artifact: Artifact, arrays: Sequence[np.ndarray] | None, threads: int, calls: int) -> float | None:
    """10^6 bytes at most resident in a fresh process that calls the artifact with these arrays; None: not known here.

    arrays: None where it shall only import the runtime. Raises RuntimeError with what the process said where it failed.
    """
    import numpy as np

    from kdrun.learning.device import thread_environment

    with TemporaryDirectory() as folder:
        request: dict[str, Any] = {"runtime": artifact.runtime, "threads": threads, "calls": calls, "artifact": None}
        if arrays is not None:
            request["artifact"] = str(artifact.folder.resolve())
            for number, one in enumerate(arrays):
                np.save(Path(folder) / f"{number:02}.npy", one)
        Path(folder, "request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, folder],
            env={**os.environ, **thread_environment({"threads": threads}), "PYTHONPATH": _path()},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    if done.returncode:
        raise RuntimeError(f"{artifact.runtime} in a process of its own: {done.stderr.strip()[-500:]}")
    kib = json.loads(done.stdout.splitlines()[-1])["peak_kib"]
    return None if kib is None else kib * 1024 / 1e6


def main(folder: str) -> None:
    """Do what request.json of the folder says and print the peak."""
    from importlib import import_module

    request = json.loads(Path(folder, "request.json").read_text())
    import_module(RUNTIMES[request["runtime"]])
    if request["artifact"]:
        import numpy as np

        from kdrun.hardware.exports.artifact import Artifact

        artifact = Artifact.read(request["artifact"])
        assert artifact is not None, "the artifact was whole when it was exported"
        call = artifact.session(request["threads"]).bind(
            *(np.load(path) for path in sorted(Path(folder).glob("*.npy")))
        )
        for _ in range(request["calls"]):
            call()
    print(json.dumps({"peak_kib": peak_kib()}))


def peak_kib() -> int | None:
    """The most memory that was resident in this process, in KiB.

    From Linux's VmHWM where that is: ru_maxrss of a process that was forked starts at what its parent had, and a parent with a
    trained network and its data in memory is larger than what is to be measured.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak  # bytes there, KiB elsewhere


def _path() -> str:
    """Where this process finds modules, for the child: it may be started in another folder."""
    return os.pathsep.join(path for path in sys.path if path)


if __name__ == "__main__":
    main(sys.argv[1])
