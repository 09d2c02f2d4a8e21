"""`${oc.env:NAME}` while a config is composed: which values stay names in the frozen config (kdrun.environment).

Names stay: labels, tags, `extra`, and text among the options of what a `_target_` names. The values of other keys are put in:
they are numbers, choices, or folders, which a record has to hold. So is a path that is there, and what `environment.NAME=true` allows.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kdrun.config.trees import at, leaves, put_at
from kdrun.environment import MARK, mark
from kdrun.problems import Problems

KEPT = ("name", "tags", "extra")
"""Keys of the schema whose text is only shown or handed on."""


@dataclass
class Named:
    """trees: the cells with names in place of values. values: variable -> value, of those that are not to be recorded."""

    trees: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def labels(self, tree: dict[str, Any], number: int) -> dict[str, Any]:
        """The cell with names where they are shown alone, so that no value gets into the name of a folder."""
        if not self.values:
            return tree
        tree = copy.deepcopy(tree)
        for path, text in self._marked(number):
            if _is_label(path):
                put_at(tree, path, text)
        return tree

    def put(self, cell: dict[str, Any], number: int) -> None:
        """Names in place of values in a checked cell."""
        for path, text in self._marked(number):
            value = at(cell, path)
            if isinstance(value, str) and _is_hidden(path, value):
                put_at(cell, path, text)

    def origin(self, name: str, typed: Mapping[str, str]) -> str:
        """What reads a variable: "" where it was typed."""
        return "" if any(f"oc.env:{name}" in text for text in typed.values()) else "a config file"

    def _marked(self, number: int) -> Iterator[tuple[str, str]]:
        if self.values:
            for path, text in leaves(self.trees[number]):
                if isinstance(text, str) and MARK.search(text):
                    yield path, text


def named(tree: dict[str, Any], resolve: Callable[[Problems], list[dict[str, Any]]], problems: Problems) -> Named:
    """Resolve a tree once more with names in place of the values of environment variables.

    What cannot be resolved so, though it can with the values, is a problem: it could not stay out of the record.
    """
    if not any(isinstance(value, str) and "oc.env" in value for _, value in leaves(tree)):
        return Named()
    allowed = tree.get("environment")
    found = Named()
    with _marking(found.values, {name for name, on in allowed.items() if on} if isinstance(allowed, dict) else set()):
        found.trees = resolve(lost := Problems())
    if lost.found and not problems.found:
        problems.add(
            "a value made from an environment variable cannot stay out of the record",
            f"let it be recorded: {' '.join(f'environment.{name}=true' for name in found.values)}",
        )
    return found


@contextmanager
def _marking(values: dict[str, str], harmless: set[str]) -> Iterator[None]:
    """The resolver oc.env gives names, and notes the values that they stand for."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def env(*arguments: Any) -> str | None:
        value, name = oc.env(*arguments), str(arguments[0])
        if name in harmless or name not in os.environ:
            return value
        values[name] = os.environ[name]
        return mark(name, os.environ[name])

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _is_label(path: str) -> bool:
    return path.rpartition(".")[2] == "name" or path.partition(".")[0] in KEPT


def _is_hidden(path: str, value: str) -> bool:
    from kdrun.config.meant import schema_paths

    if _is_label(path):
        return True
    known = path in schema_paths() or path.rpartition(".")[2] == "_target_"
    return not known and not (os.path.isabs(value) and os.path.exists(value))
