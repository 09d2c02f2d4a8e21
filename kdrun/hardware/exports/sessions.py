"""An exported network in its runtime. Nothing but the runtime is imported: ONNX needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdrun.files import sha256_file
from kdrun.problems import UserError
from kdrun.schema import default_cache


class Session(Protocol):
    """A loaded network.

    runtime  "torch", "onnxruntime", "executorch"; `version` is its
    threads  {"intra_op": n, "inter_op": n}, None where the runtime does not let one choose
    device   "cpu", "cuda" or "mps"
    """

    runtime: str
    version: str
    threads: dict[str, int | None]
    device: str

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The first output (logits [B, C] or [B, T, V]) as float32, for a batch of inputs in the order of the artifact's."""
        ...

    def bind(self, *arrays: np.ndarray) -> Callable[[], Any]:
        """A call with these inputs, already where the runtime wants them, that returns when the outputs are there: for clocks.

        A torch session sets the thread count of the process when it is bound; `close` puts it back.
        """
        ...

    def close(self) -> None:
        """Give back what it holds; thread counts of the process are as before."""
        ...


class OnnxSession:
    """ONNX Runtime on the CPU, with one pool of threads of the size asked for and operators one after another.

    names: of the inputs in order; an input that the network turned out not to use is left out.
    """

    runtime, device = "onnxruntime", "cpu"

    def __init__(self, path: Path, names: Sequence[str], threads: int = 1):
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # what goes wrong is raised as well
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names, self._used = list(names), {one.name for one in self._session.get_inputs()}
        self._output = [self._session.get_outputs()[0].name]
        self.version = onnxruntime.__version__
        self.threads: dict[str, int | None] = {"intra_op": threads, "inter_op": 1}

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        return self._session.run(self._output, self._fed(arrays))[0]

    def bind(self, *arrays: np.ndarray) -> Callable[[], Any]:
        run, output, fed = self._session.run, self._output, self._fed(arrays)
        return lambda: run(output, fed)

    def close(self) -> None:
        self._session = None

    def _fed(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        given = zip(self.names, arrays, strict=True)
        return {name: np.ascontiguousarray(array) for name, array in given if name in self._used}


class TorchSession:
    """A module of positional tensors in torch.

    The number of threads is the process's: it is set for a call, and from `bind` to `close`.
    """

    runtime = "torch"

    def __init__(self, module: Any, threads: int = 1, device: str = "cpu"):
        import torch

        here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not here.get(device):
            raise UserError(f"device={device}: not on this machine; here: {', '.join(k for k, v in here.items() if v)}")
        self._torch, self._module, self.device = torch, module.to(device), device
        self.version: str = torch.__version__
        self.threads: dict[str, int | None] = {"intra_op": threads, "inter_op": torch.get_num_interop_threads()}
        self._threads = threads
        self._before: int | None = None
        self._wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        torch, before = self._torch, self._torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                return self._module(*self._moved(arrays)).float().cpu().numpy()
        finally:
            torch.set_num_threads(before)

    def bind(self, *arrays: np.ndarray) -> Callable[[], Any]:
        torch, module, wait = self._torch, self._module, self._wait
        if self._before is None:
            self._before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        given = self._moved(arrays)

        @torch.inference_mode()
        def call() -> Any:
            found = module(*given)
            if wait is not None:
                wait()
            return found

        return call

    def close(self) -> None:
        if self._before is not None:
            self._torch.set_num_threads(self._before)
            self._before = None

    def _moved(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        return [tensor.to(self.device) for tensor in _tensors(arrays)]


class ExecutorchSession:
    """ExecuTorch's runtime for Python. It chooses its number of threads itself."""

    runtime, device = "executorch", "cpu"
    threads: dict[str, int | None]

    def __init__(self, path: Path):
        from importlib.metadata import version

        runtime = import_executorch("runtime")
        self._program = runtime.Runtime.get().load_program(path)  # kept: methods live in it
        self._method = self._program.load_method("forward")
        self.version, self.threads = version("executorch"), {"intra_op": None, "inter_op": None}

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        return self._method.execute(_tensors(arrays))[0].float().numpy().copy()  # its memory is used again

    def bind(self, *arrays: np.ndarray) -> Callable[[], Any]:
        execute, given = self._method.execute, _tensors(arrays)
        return lambda: execute(given)

    def close(self) -> None:
        self._method = self._program = None


def import_onnxruntime() -> Any:
    """The package. UserError where it is absent."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX needs onnxruntime: pip install onnxruntime") from error
    return onnxruntime


def import_executorch(module: str) -> Any:
    """`executorch.MODULE`. UserError where the package is absent."""
    from importlib import import_module

    try:
        return import_module(f"executorch.{module}")
    except ImportError as error:
        raise UserError(f"ExecuTorch needs executorch: pip install executorch ({error})") from error


def note_made(path: Path) -> None:
    """Remember in the user's cache that a .pt2 file was made here."""
    note = _made_here(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def _made_here(path: Path) -> Path:
    return Path(default_cache(), "made", f"{sha256_file(path)}.pt2")


def captured(path: Path, device: str) -> Any:
    """The module of a .pt2 file that was made here: torch runs what such a file says. UserError for another one."""
    import torch

    if not _made_here(path).is_file():
        raise UserError(
            f"{path}: a .pt2 file can hold code, and this one was not made here",
            "make it: kdrun export RUN format=torch_export",
        )

    program = torch.export.load(path)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    import torch

    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
