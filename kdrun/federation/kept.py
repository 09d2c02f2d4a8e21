"""The state of a federation on disk: numbers in one file, tensors beside it, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json
from kdrun.networks.weights import load_state, save_state

MANIFEST = "state.json"


class Kept:
    """A folder with `state.json`, which names the tensor files that belong to it.

    Only parts with a new version are written; the manifest is replaced last and at once, and files that it no longer names are
    deleted after that. So what is found after a kill is always one state, the last that was complete.
    """

    def __init__(self, folder: Path, identity: Any):
        self.folder, self.identity = folder, identity
        self._files: dict[str, str] = {}

    def load(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]] | None:
        """(numbers, {part: tensors}) as saved last, or None. Raises RuntimeError for the state of another stage."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        manifest = read_json(path)
        if manifest["identity"] != self.identity:
            raise RuntimeError(f"the state in {self.folder} belongs to {manifest['identity']}, not to {self.identity}")
        self._files = manifest["files"]
        return manifest["numbers"], {name: load_state(self.folder / file) for name, file in self._files.items()}

    def save(self, numbers: dict[str, Any], parts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """numbers: JSON types; parts: {name: (version, tensors)}, of which equal versions are equal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {name: f"{name}.{version}.safetensors" for name, (version, _) in parts.items()}
        for name, file in files.items():
            if self._files.get(name) != file:
                save_state(parts[name][1], self.folder / file)
        write_json(self.folder / MANIFEST, {"identity": self.identity, "numbers": numbers, "files": files})
        for name, file in self._files.items():
            if files.get(name) != file:
                (self.folder / file).unlink(missing_ok=True)
        self._files = files
