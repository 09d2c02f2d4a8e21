"""What trees of parts are made of, which determine the results of stages (lab.stages), and the hash of such a tree.

In: the learner's network, the objective, the data view, the fit, the seed, the content of data and given weights, the
fingerprints of start and teacher, the versions of the code that is used (lab/sources.py), library versions, device type and precision.
Left out, each with its reason: see LEFT_OUT.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdrun import kinds
from kdrun.defaults import canonical
from kdrun.domains.base import Domain
from kdrun.lab.sources import Sources
from kdrun.nodes import world_of
from kdrun.schema import Data, Hardware, LearnerConfig, Teacher, Trainer, added, irrelevant

PLACES = {
    "learner": LearnerConfig,
    "data": Data,
    "trainer": Trainer,
    "teaching": Teacher,
    "hardware": Hardware,
}
LEFT_OUT = {
    **{f"{at}.{key}": why for at, node in PLACES.items() for key, why in irrelevant(node, "left_out").items()},
    "data.root": "a path; the content of the data is in instead",
    "data.tests.*.root": "likewise",
    "teaching.unchecked": "a guard",
    "federation.engine": "where clients run; all engines give the same bits, which tests compare (tests/federation/test_flower*.py). "
    "What happened to machines, and so cannot be repeated, is in: see Federate.parts_after",
}
"""Dotted key -> why it is in no fingerprint: what the schema says of its keys, and what has no node there."""

ADDED: dict[str, Any] = {
    f"{place}.{key}": default
    for place, node in {"data.view": Data, "trainer": Trainer, "teacher": Teacher}.items()
    for key, default in added(node).items()
}
"""Keys that came after records existed: with their default they are in no fingerprint, so that an option orphans no result."""


class FingerprintContext:
    """Everything a fingerprint needs besides the stage: hashes of data and files, sources, versions, the device.

    `data_hash(data config) -> hex` and `device` ("cpu", "cuda" ...) are injected; results are remembered for the run.
    """

    def __init__(self, data_hash, device: str, added: dict[str, Any] | None = None):
        self._data_hash = data_hash
        self.device = device
        self.added = ADDED if added is None else added
        self.sources = Sources()
        self._data: dict[str, str] = {}
        self._files: dict[tuple[str, int, int], str] = {}

    def data_hash(self, data: dict[str, Any]) -> str:
        key = json.dumps(data, sort_keys=True)
        if key not in self._data:
            self._data[key] = self._data_hash(data)
        return self._data[key]

    def file_hash(self, path: str) -> str:
        status = Path(path).stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._files:
            with open(path, "rb") as file:
                self._files[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._files[key]


def fingerprint(tree: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of `parts`, 64 hex digits."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(one: Any, other: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in one, value in other) wherever two trees differ; a missing key counts as None."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*one, *other}):
            found |= differences(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return {} if one == other else {prefix: (one, other)}


def nearest(tree: dict[str, Any], others: Iterable[tuple[str, dict[str, Any]]]):
    """(fingerprint, differences) of the stored parts that differ from `tree` in the fewest keys; None if there are none."""
    ranked = [(differences(tree, _without_files(other)), name) for name, other in others]
    if not ranked:
        return None
    found, name = min(ranked, key=lambda pair: (len(pair[0]), pair[1]))
    return name, found


def _without_files(tree: dict[str, Any]) -> dict[str, Any]:
    """Stored parts; where an earlier kdrun named its code by hashes of its files, that is one difference."""
    code = tree.get("code")
    by_files = isinstance(code, dict) and any(name.startswith("kdrun.") for name in code)
    return {**tree, "code": "files of an earlier kdrun"} if by_files else tree


def domain_modules(data: dict[str, Any]) -> list[str]:
    """Where the kind of data is defined: a room of kdrun, or a module of the user's."""
    return [type(_domain(data)).__module__]


def _domain(data: dict[str, Any]) -> Domain:
    return kinds.find(data.get("task", "classification"))


def targets_in(*nodes: Any) -> list[str]:
    """All `_target_` in these."""
    found, waiting = [], list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            found += [node["_target_"]] if "_target_" in node else []
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return found


def identity(data: dict[str, Any], context: FingerprintContext) -> dict[str, Any]:
    """What a data config gives: how it is looked at, and the hash of its content."""
    return {"view": viewed(data), "content": context.data_hash(data)}


def viewed(data: dict[str, Any]) -> dict[str, Any]:
    """The data config without what is a label or a path."""
    view = kept(canonical(data, numbers=True), "data")
    if view.get("tests"):
        view["tests"] = {
            name: kept(node, "data.tests.*") if isinstance(node, dict) else node for name, node in view["tests"].items()
        }
    if other := view.get("unlabelled"):
        paths = ("root", *_domain(data).left_out(other["_target_"]))
        view["unlabelled"] = {key: value for key, value in other.items() if key not in paths}
    left_out = _domain(data).left_out(data["_target_"])
    view = {key: value for key, value in view.items() if key not in left_out}
    for key, kind in _domain(data).settings.items():
        if view.get(key):
            left_out, later = irrelevant(kind, "left_out"), added(kind)
            view[key] = {
                name: value
                for name, value in view[key].items()
                if name not in left_out and not (name in later and later[name] == value)
            }
    return view


def kept(node: dict[str, Any], place: str) -> dict[str, Any]:
    """A node without the keys that LEFT_OUT names for its place."""
    return {key: value for key, value in node.items() if f"{place}.{key}" not in LEFT_OUT}


def drop_added(tree: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    for dotted, default in added.items():
        *path, last = dotted.split(".")
        node: Any = tree
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node and node[last] == default:
            parent = tree
            for key in path:  # copy on the way down: configs are shared between stages
                parent[key] = dict(parent[key])
                parent = parent[key]
            del parent[last]
    return tree


def versions(*names: str) -> dict[str, str | None]:
    """Of libraries."""
    return {name: _version(name) for name in names}


def device(hardware: dict[str, Any], context: FingerprintContext) -> dict[str, Any]:
    over_nodes = {"devices": world_of(hardware), "nodes": 1}  # where ranks run changes nothing
    return {"type": context.device, **kept({**hardware, **over_nodes}, "hardware")}


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
