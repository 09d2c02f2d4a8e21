"""From the data config to a data set: call the source, and let the domain of `data.task` make a data module of what it returns."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun import kinds, targets
from kdrun.data import keeping
from kdrun.domains.base import Domain
from kdrun.files import Damaged
from kdrun.problems import UserError
from kdrun.protocol import PUBLISHED
from kdrun.schema import Data, defaults

if TYPE_CHECKING:
    from kdrun.data.module import DataModule

GENERATED = "generated"
"""Key that a stage adds: {"path", "sha256"} of rows with which the training samples are relabelled."""
COMMON = defaults(Data)
"""The keys that every data config has; all others are arguments of the source."""


def load_data(config: dict[str, Any], paths: dict[str, str]) -> DataModule:
    """The data set of `config["data"]`, split and with its normalisation known.

    Raises UserError when something is absent (with the command that brings it) or when training would be senseless.
    """
    if generated := config.get(GENERATED):
        return load_data(_without_generated(config), paths).relabelled(read_generated(**generated))
    node, common = separate(config)
    domain = kinds.find(common["task"])
    source, key = _load_kept(node, paths, domain)
    if common["view"] is not None and not domain.views:
        raise UserError(f"data.view={common['view']}: only images have views, {node['_target_']} gives none")
    if common["protocol"] == PUBLISHED and not domain.published:
        raise UserError(
            f"data.protocol={PUBLISHED}: data.task={domain.name} is always trained without validation samples"
        )
    for name in ("labelled", "unlabelled", "long_tail", "label_noise"):
        if common[name] and not domain.transfers:
            raise UserError(f"data.{name}: data.task={domain.name} has no samples without labels, nor noise on labels")
    other, others = unlabelled_of(common, source, paths, domain, key)
    known = key is not None and (other is None or others is not None)
    kept_as = [key[0], key, others, common] if known else None
    module = domain.module(source, {**common, "unlabelled": other, keeping.KEPT_AS: kept_as}, paths["cache"])
    module.cache, module.kept_as = paths["cache"], kept_as
    module.labelled_share = common["labelled_share"]
    return module


def content_hash(config: dict[str, Any], paths: dict[str, str]) -> str:
    """sha256 hex digest of all that is behind a data config; nothing that is cached is decoded again."""
    node, common = separate(_without_generated(config))
    domain = kinds.find(common["task"])
    source, key = _load_kept(node, paths, domain)
    content = domain.content_hash(source, common)
    other, _ = unlabelled_of(common, source, paths, domain, key)
    return content if other is None else hashlib.sha256(f"{content} {other.content_hash}".encode()).hexdigest()


def unlabelled_of(
    common: dict[str, Any], like: Any, paths: dict[str, str], domain: Domain, beside: Any = None
) -> tuple[Any, Any]:
    """(what the source of `data.unlabelled` returns, the key it is kept by); None where there is none. like: what the main source
    returned; beside: the key that it is kept by."""
    node = common["unlabelled"]
    if node is None:
        return None, None
    known = targets.signature(node["_target_"])
    try:
        if known and "like" in known.parameters:
            return _load_kept(node, paths, domain, [beside], like=like)
        return _load_kept(node, paths, domain)
    except UserError as error:
        lines = [line.replace("data.root=", "data.unlabelled=") for line in error.lines]
        first = lines[0] if lines[0].startswith("data.unlabelled") else f"data.unlabelled: {lines[0]}"
        raise UserError(first, *lines[1:]) from None


def _load_kept(
    node: dict[str, Any], paths: dict[str, str], domain: Domain, beside: list[Any] | None = None, **supplied: Any
) -> tuple[Any, Any]:
    """(the source of a node, from files where it was read before; the key it is kept by). beside: keys of what it is supplied with; a None
    among them: not known, so that it is not kept."""

    def now() -> list[Any] | None:
        key = None if beside and None in beside else keeping.source_key(node, paths["cache"])
        return key and [*key, *(beside or ())]

    return keeping.kept_source(paths["cache"], now(), now, lambda: load_source(node, paths, domain, **supplied))


def _without_generated(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != GENERATED}


def read_generated(path: str, sha256: str) -> list[dict[str, Any]]:
    """Rows of generated targets. Raises Damaged where the file is not the one that was stored."""
    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{path}: generated targets have changed since they were stored")
    return [json.loads(line) for line in content.splitlines()]


def separate(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the source's own node, the common keys with their defaults)."""
    task = config.get("task", COMMON["task"])
    known = defaults(Data, task)
    node = {key: value for key, value in config.items() if key not in known}
    common = {key: config.get(key, default) for key, default in known.items()}
    for group in ("limit", "augment"):
        common[group] = {**known[group], **(common[group] or {})}
    for group, kind in kinds.find(task).settings.items():
        common[group] = {**defaults(kind), **(common[group] or {})}
    return node, common


def load_source(node: dict[str, Any], paths: dict[str, str], domain: Domain, **supplied: Any) -> Any:
    """Call the source `node["_target_"]` with its arguments; `cache` is the folder for what is kept between runs; supplied: further ones.

    Raises UserError where it does not return what the domain learns from.
    """
    source = targets.build(node, "source", cache=paths["cache"], **supplied)
    if isinstance(source, domain.source_type()):
        return source
    known = {name: kind.source_type() for name, kind in kinds.shipped().items()}
    if tasks := [name for name, kind in known.items() if isinstance(source, kind)]:
        raise UserError(
            f"data.task={domain.name}: {node['_target_']} is a source for {' or '.join(tasks)}: data.task={tasks[0]}"
        )
    types = {kind.__name__: None for kind in (*known.values(), domain.source_type())}
    raise UserError(
        f"{node['_target_']} returned a {type(source).__name__}, not {', '.join(list(types)[:-1])} or {list(types)[-1]}: "
        "it is no data source"
    )
