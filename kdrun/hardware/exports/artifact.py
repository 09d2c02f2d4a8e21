"""An exported network on disk: its files, how near it is to the network it was made from, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.files import read_json, sha256_file
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.hardware.exports.sessions import Session

RECORD = "artifact.json"
SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """A folder of its own: the file that a runtime loads (`files[0]`), config.json (what inputs are) and artifact.json (this).

    format, precision   see formats
    files               of the network; the first is what is loaded. Names in JSON are relative to the folder
    sha256              file name -> hex digest
    bytes               of all files of the network
    max_difference      largest difference of an output from the network's, on real validation samples; in the unit of outputs
    tolerance           what it may be; None: labels alone are compared
    labels_agree        share of samples (tokens) with the label that the network itself gives; None where there are no labels
    compared            {"samples", "batches": sizes, "range": of the network's outputs}
    inputs              [{"name", "type", "shape"}] as the runtime wants them, None where a length is free
    source              {"weights": sha256 of the weights it was made from, "run", "stage", ...}
    settings            all else that decides what is in it: {"calibration", "dynamic", ...}
    """

    folder: Path
    format: str
    precision: str
    files: list[Path]
    sha256: dict[str, str]
    bytes: int
    max_difference: float
    tolerance: float | None
    labels_agree: float | None
    compared: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file that a runtime loads."""
        return self.files[0]

    @property
    def runtime(self) -> str:
        """What runs it: "torch", "onnxruntime" or "executorch"."""
        from kdrun.hardware.exports.formats import RUNTIMES

        return RUNTIMES[self.format]

    def session(self, threads: int = 1, device: str = "cpu") -> Session:
        """The artifact loaded by its runtime, ready to be called. device: of torch only.

        UserError where its runtime is not installed (with what to install) or has no such device."""
        from kdrun.hardware.exports.sessions import ExecutorchSession, OnnxSession, TorchSession, captured

        if threads < 1:
            raise UserError(f"threads={threads}: at least 1")
        if device != "cpu" and self.format not in ("safetensors", "torch_export"):
            raise UserError(
                f"device={device}: {self.runtime} runs on the CPU here; torch runs there: format=safetensors"
            )
        if self.format == "onnx":
            return OnnxSession(self.path, [one["name"] for one in self.inputs], threads)
        if self.format == "executorch":
            return ExecutorchSession(self.path)
        if self.format == "torch_export":
            return TorchSession(captured(self.path, device), threads, device)
        from kdrun.hardware.exports.load import load_export, load_transformers
        from kdrun.hardware.exports.subject import Bare

        if self.format == "transformers":
            return TorchSession(load_transformers(self.folder), threads, device)

        network, config = load_export(self.folder)
        spec, dtype = config["spec"], next((one.dtype for one in network.parameters()), None)
        names = spec.input_names if spec.keywords else None
        return TorchSession(Bare(network, names, dtype if self.precision != "fp32" else None), threads, device)

    def record(self) -> dict[str, Any]:
        """JSON types; file names are relative."""
        kept = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("folder", "files")}
        return {**kept, "files": [path.name for path in self.files], "schema": SCHEMA}

    @classmethod
    def of(cls, folder: Path, record: Mapping[str, Any]) -> Artifact:
        """From `record()` again."""
        kept = {one.name: record[one.name] for one in fields(cls) if one.name not in ("folder", "files")}
        return cls(folder=folder, files=[folder / name for name in record["files"]], **kept)

    @classmethod
    def read(cls, folder: str | Path) -> Artifact | None:
        """What `artifact.json` of a folder says; None where there is none, or a file is missing or has other content."""
        folder = Path(folder)
        try:
            record = read_json(folder / RECORD)
            if record["schema"] != SCHEMA:
                return None
            found = cls.of(folder, record)
            same = all(sha256_file(path) == found.sha256[path.name] for path in found.files)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if same else None
