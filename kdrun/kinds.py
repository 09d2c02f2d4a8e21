"""Kinds of data by the name that `data.task` has: those that come with kdrun, each a folder of kdrun/domains, and those of installed
packages. A module `domain` is imported when its kind is asked for: what a config may say is known without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from kdrun import targets
from kdrun.measures import measure
from kdrun.plugins import DOMAINS, entry_points
from kdrun.problems import UserError, closest, listed


@cache
def shipped() -> dict[str, Any]:
    """Those of kdrun by name; a folder with a module `domain` is one."""
    here = os.path.join(os.path.dirname(__file__), "domains")
    folders = sorted(name for name in os.listdir(here) if os.path.isfile(os.path.join(here, name, "domain.py")))
    found = [import_module(f"kdrun.domains.{folder}.domain").DOMAIN for folder in folders]
    return {domain.name: domain for domain in sorted(found, key=lambda domain: domain.name)}


def names() -> tuple[str, ...]:
    """All values that `data.task` may have; no installed package is imported."""
    return (*shipped(), *(name for name in _installed(tuple(sys.path)) if name not in shipped()))


def find(name: str) -> Any:
    """The domain of a name. Raises UserError where there is none, or its package is broken."""
    if name in shipped():
        return shipped()[name]
    installed = _installed(tuple(sys.path))
    if name not in installed:
        raise UserError(
            f"data.task={name}: there is no such kind of data{closest(name, names())}", f"all: {listed(names())}"
        )
    return _loaded(name, installed[name])


def of_kind(kind: str) -> Any:
    """The domain of what a weights file says (Spec.kind)."""
    of_kdrun = (domain for domain in shipped().values() if (domain.kind or domain.name) == kind)
    return next(of_kdrun, None) or find(kind)


def spec_of(metadata: Mapping[str, Any]) -> Any:
    """The spec of the data that a weights file (networks.weights.read_metadata) was made for."""
    return of_kind(metadata.get("kind", "images")).spec(metadata)


def settings(task: str | None = None) -> dict[str, type]:
    """Key below `data.` -> dataclass of its node (Domain.settings), of all kinds of data of kdrun and of an installed `task`; without
    those that are options of the sources of `task` (Domain.options)."""
    taken = find(task).options if isinstance(task, str) and task in names() else ()
    return {key: node for domain in _with(task) for key, node in domain.settings.items() if key not in taken}


def supplied(task: str | None = None) -> frozenset[str]:
    """Arguments of networks that data supply (Domain.supplies), of all kinds of data of kdrun and of an installed `task`."""
    return frozenset(name for domain in _with(task) for name in domain.supplies)


def metrics_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the metrics of every stage of a run: those of its kind of data, and those that its config adds."""
    return (*find(config["data"]["task"]).metrics, *(config.get("metrics") or {}))


def direction(config: Mapping[str, Any], name: str) -> str:
    """ "max" or "min", of one of `metrics_of`; "" where neither the config nor the class of an added metric says it."""
    node = (config.get("metrics") or {}).get(name)
    if node is None:
        return find(config["data"]["task"]).metrics[name]
    larger = None if node.get("mode") else getattr(targets.locate(node["_target_"], "metric"), "higher_is_better", None)
    words: Mapping[Any, str] = {True: "max", False: "min"}
    return node.get("mode") or words.get(larger, "")


def better(task: str | None, metric: str) -> str:
    """ "max" or "min": which is better of a metric that results are judged by. task: the kind of data; None or another one than
    those installed here, as in records of elsewhere: what the metric's name says."""
    known = find(task).metrics if task in names() else {}
    return known.get(metric) or measure(metric).better


def _with(task: str | None) -> list[Any]:
    """The kinds of data of kdrun, and that of an installed package which a config names."""
    installed = [find(task)] if isinstance(task, str) and task not in shipped() and task in names() else []
    return [*shipped().values(), *installed]


def choices_of(rules: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What a key with these rules (schema.key) may be set to; None: any value of its type. "domains": all kinds of data."""
    choices = rules.get("choices")
    return names() if choices == "domains" else choices


@cache
def _installed(path: tuple[str, ...]) -> dict[str, str]:
    return dict(entry_points(DOMAINS))


@cache
def _loaded(name: str, value: str) -> Any:
    module, _, word = value.partition(":")
    try:
        found = getattr(import_module(module), word)
    except Exception as error:  # whatever is wrong with somebody else's package
        raise UserError(f"data.task={name}: {value} cannot be loaded: {type(error).__name__}: {error}") from error
    domain = found() if isinstance(found, type) else found
    if not isinstance(domain, import_module("kdrun.domains.base").Domain) or domain.name != name:
        raise UserError(f"data.task={name}: {value} is no kdrun.domains.base.Domain with name = {name!r}")
    return domain
