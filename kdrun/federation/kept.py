"""The state of a federation on disk: numbers in one file, tensors beside it, whole or not at all, with their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.checksums import keep_previous, previous_of
from kdrun.files import Damaged, read_json, sha256_file, write_json
from kdrun.networks.weights import load_state, save_state

MANIFEST = "state.json"

State = tuple[dict[str, Any], dict[str, dict[str, Any]]]
"""(numbers, {part: tensors})"""


class Kept:
    """A folder with `state.json`, which names the tensor files that belong to it.

    Only parts with a new version are written; the manifest is replaced last and at once, and files that it no longer names are
    deleted after that. So what is found after a kill is always one state, the last that was complete.
    fallback: the state before the last is kept as well, for where the last one is damaged, which is then removed.
    """

    def __init__(self, folder: Path, identity: Any, fallback: bool = False):
        self.folder, self.identity, self.fallback = folder, identity, fallback
        self._files: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def load(self) -> tuple[State | None, list[str]]:
        """(the last state that is whole and of this stage, or None; what is wrong with those after it)."""
        problems = []
        for path in (self.folder / MANIFEST, previous_of(self.folder / MANIFEST)):
            if path.is_file():
                try:
                    return self._read(path), problems
                except (Damaged, OSError) as error:
                    problems.append(str(error))
                    if self.fallback:
                        path.unlink(missing_ok=True)
        return None, problems

    def _read(self, path: Path) -> State:
        try:
            manifest = read_json(path)
            identity, files, digests = (manifest[name] for name in ("identity", "files", "sha256"))
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path} is damaged: it is not what was written to it") from error
        if identity != self.identity:
            raise Damaged(f"{path} belongs to {identity}, not to {self.identity}")
        for name in files.values():
            file = self.folder / name
            if not file.is_file() or sha256_file(file) != digests[name]:
                raise Damaged(f"{file} is {'damaged' if file.is_file() else 'missing'}")
        self._files, self._digests = files, digests
        return manifest["numbers"], {name: load_state(self.folder / file) for name, file in files.items()}

    def save(self, numbers: dict[str, Any], parts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """numbers: JSON types; parts: {name: (version, tensors)}, of which equal versions are equal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MANIFEST
        files = {name: f"{name}.{version}.safetensors" for name, (version, _) in parts.items()}
        for name, file in files.items():
            if self._files.get(name) != file:
                save_state(parts[name][1], self.folder / file)
                self._digests[file] = sha256_file(self.folder / file)
        digests = {file: self._digests[file] for file in files.values()}
        if self.fallback:
            keep_previous(path)
        write_json(path, {"identity": self.identity, "numbers": numbers, "files": files, "sha256": digests})
        needed = {*files.values(), *(self._files.values() if self.fallback else ())}
        for old in self.folder.glob("*.safetensors"):
            if old.name not in needed:
                old.unlink(missing_ok=True)
        self._files, self._digests = files, digests
