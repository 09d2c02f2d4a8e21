"""Weight files: safetensors with what is needed to use them, written whole or not at all, read strictly.

Nothing here unpickles: torch files are read with weights_only=True, which holds tensors and plain containers.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from kdrun.files import located, sync_folder
from kdrun.networks.inputs import check_data
from kdrun.networks.lora import with_additions
from kdrun.networks.matching import check_keys, check_values, without_prefix
from kdrun.problems import UserError

_KEY = "kdrun"  # the one metadata key; several would be written in an order that changes from run to run
_TIES = "tied"
_CONTAINERS = ("state_dict", "model_state_dict", "model", "network", "net", "student")

PLAIN = [argparse.Namespace]
"""Containers that are read in torch files beside those of torch itself: the options of a command line, which repositories keep beside weights."""


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded. metadata: as saved, {} in files of other programs. notes: lines a person should see."""

    path: Path
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class _WeightsFile:
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def save_weights(
    network: nn.Module,
    path: str | Path,
    spec: Any = None,
    node: Mapping[str, Any] | None = None,
    state: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Writes parameters and buffers as safetensors, with classes, image shape, normalisation and network node.

    state: written in place of the network's present state (an earlier epoch). Its names must be the network's.
    A network with `settled(node) -> node` says what its node leaves to the weights that it started from (networks.elastic).
    """
    if state is None:
        state = network.state_dict()
    elif state.keys() != network.state_dict().keys():
        raise ValueError(f"the state to be saved does not have the names of {type(network).__name__}")
    metadata: dict[str, Any] = {}
    if spec is not None:
        metadata |= spec.metadata()
    if node is not None:
        metadata["network"] = network.settled(node) if hasattr(network, "settled") else dict(node)
    return save_state(state, path, metadata)


def save_state(state: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes tensors by name, and JSON metadata, as safetensors; load_state gives the same names back.

    Tensors that are the same memory (tied weights) are written once. The file appears under its name only when it is
    complete and on disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, ties = _separate(state)
    content = {**(metadata or {}), **({_TIES: ties} if ties else {})}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with located(path, size):
            temporary.touch()
            mode = temporary.stat().st_mode  # what the umask gives; save_file makes files only the owner can read
            try:
                save_file(tensors, temporary, {_KEY: json.dumps(content, sort_keys=True, allow_nan=False)})
            except SafetensorError as error:
                raise (_disk_error(error) or error) from error
            temporary.chmod(mode)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _disk_error(error: SafetensorError) -> OSError | None:
    """What the disk answered, of which safetensors gives the text alone."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name, on CPU. Raises UserError as load_weights does for an unreadable file."""
    return _read(Path(path)).tensors


def load_weights(
    network: nn.Module,
    path: str | Path,
    spec: Any = None,
    *,
    any_normalisation: bool = False,
    as_trained: bool = False,
) -> LoadedWeights:
    """Loads a safetensors or torch file into `network`; all keys and shapes must agree, or nothing is changed.

    spec: where given, what the file says of the data it was trained on must be that of these data: classes in their order (of a
        table: features and target; of text: tokenizer and languages) and normalisation;
        any_normalisation=True leaves the normalisation out (for a caller that converts the inputs).
    as_trained: the network is not trained further, so that image size, image slots and chat template have to be as they were.
    A network on the meta device is given the tensors of the file.
    A network with `adopt(metadata, tensors) -> tensors` makes its state from what the file holds (networks.compressed).
    Raises UserError for a file that is absent, damaged, needs unpickling, does not fit, was made for other data, or holds
    NaN, infinities or nothing but zeros.
    """
    path = Path(path)
    read = _read(path)
    own = network.state_dict()
    tensors, prefix = without_prefix(read.tensors, own)
    if prefix:
        read.notes.append(f"{path.name}: removed the prefix {prefix!r} from all {len(tensors)} names")
    check_values(tensors, path)
    if hasattr(network, "adopt"):  # it can start from weights of what it was made from
        tensors = network.adopt(read.metadata, tensors)
        own = network.state_dict()  # which may be of other sizes now
    tensors = _with_ties(with_additions(tensors, own), own)
    check_keys(tensors, own, path, type(network).__name__)
    if spec is not None and read.metadata:
        check_data(read.metadata, spec, path, any_normalisation=any_normalisation, as_trained=as_trained)
    empty = any(tensor.is_meta for tensor in own.values())  # see build.to_be_loaded
    if empty:
        tensors = {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}
    network.load_state_dict(tensors, strict=True, assign=empty)
    return LoadedWeights(path, read.metadata, tuple(read.notes))


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a file written by save_weights; {} for other files. Reads the header only."""
    path = Path(path)
    return _safetensors_metadata(path) if path.suffix == ".safetensors" else {}


def _read(path: Path) -> _WeightsFile:
    if not path.is_file():
        raise UserError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        metadata = _safetensors_metadata(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        ties = metadata.pop(_TIES, {})
        return _WeightsFile(tensors | {name: tensors[tied] for name, tied in ties.items()}, metadata)
    try:
        with getattr(torch.serialization, "safe_globals", nullcontext)(PLAIN):  # torch 2.4 has none
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds Python objects, which kdrun does not unpickle",
            "save the state_dict alone: torch.save(network.state_dict(), path), or safetensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as a torch file: {(str(error).splitlines() or [''])[0]}") from error
    return _unwrapped(content, path)


def _safetensors_metadata(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as safetensors: {error}") from error


def _unwrapped(content: Any, path: Path) -> _WeightsFile:
    """The mapping of names to tensors in a torch file: the content itself, or one well-known entry of it."""
    for name in (None, *_CONTAINERS):
        found = content if name is None else content.get(name) if isinstance(content, Mapping) else None
        if isinstance(found, Mapping) and found and all(isinstance(value, torch.Tensor) for value in found.values()):
            notes = [] if name is None else [f"{path.name}: took the weights under {name!r}"]
            return _WeightsFile(dict(found), notes=notes)
    kind = f"keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else type(content).__name__
    raise UserError(f"{path} holds no mapping from names to tensors ({kind})")


def _separate(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """CPU tensors that share no memory, and for each tied name the name under which its tensor is kept."""
    kept: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple, str] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} in the state is a {type(tensor).__name__}: only tensors can be saved")
        tied = first.setdefault(_identity(tensor), name)
        if tied != name:
            ties[name] = tied
            continue
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        # A view of a larger tensor would drag its whole storage along, or clash with another view of it.
        if storage.data_ptr() in storages or storage.nbytes() != tensor.numel() * tensor.element_size():
            tensor = tensor.clone()
        storages.add(storage.data_ptr())
        kept[name] = tensor.cpu().contiguous()
    return kept, ties


def _with_ties(tensors: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`tensors` plus the names that are absent only because the network ties them to one that is there."""
    present = {_identity(own[name]): name for name in own if name in tensors}
    ties = {name: present.get(_identity(own[name])) for name in own if name not in tensors}
    return tensors | {name: tensors[tied] for name, tied in ties.items() if tied is not None}


def _identity(tensor: torch.Tensor) -> tuple:
    """Equal for tensors that are the same memory; an empty tensor is only itself."""
    pointer = tensor.data_ptr() if tensor.numel() else id(tensor)
    return pointer, tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride()
