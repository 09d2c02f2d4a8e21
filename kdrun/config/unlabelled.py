"""`data.unlabelled` as it is typed: the name of another data set, or a path that the kind of data reads without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from kdrun import kinds
from kdrun.config.groups import Groups
from kdrun.config.option_file import load
from kdrun.config.origins import Origins
from kdrun.problems import Problems, closest
from kdrun.schema import Data, fields

KEY = "unlabelled"


def name_sources(tree: dict[str, Any], groups: Groups, origins: Origins, problems: Problems) -> None:
    """Puts the node of a source in the place of every name or path."""
    data = tree.get("data")
    task = data.get("task", Data().task) if isinstance(data, dict) else None
    if not isinstance(data, dict) or task not in kinds.names():
        return  # which is told
    for path, node in _places(tree):
        if isinstance(node.get(KEY), str):
            try:
                node[KEY] = _source(node[KEY], data, groups.get("data", {}))
            except ValueError as error:
                problems.add(f"{origins(f'{path}.{KEY}')}: {error}")
                node[KEY] = None


def _places(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted path, node) of the run's data and of those of parts of the run that differ."""
    learners = {"teacher": tree.get("teacher"), "pretrain": tree.get("pretrain")}
    assistants = tree.get("assistants")
    for name, node in {"": tree, **learners, **(assistants if isinstance(assistants, dict) else {})}.items():
        if isinstance(node, dict) and isinstance(node.get("data"), dict):
            yield f"{name}.data" if name else "data", node["data"]


def _source(said: str, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The node of the source of a data set (without what a split is made by), or of a path. Raises ValueError where it is neither."""
    task = data.get("task", Data().task)
    if said in options:
        common = {item.name for item in fields(Data, task)} | set(kinds.settings(task))
        node = load(options[said].file)
        return {key: value for key, value in node.items() if key not in common and key != "defaults"}
    node, place = kinds.find(task).reads_unlabelled(data), os.path.abspath(os.path.expanduser(said))
    if node is None or not os.path.exists(place):
        paths = f"; data.task={task} reads no path without labels" if node is None else ""
        raise ValueError(
            f"no data set of that name{' and no such path' if node else ''}{closest(said, options) or paths}"
        )
    return {**node, "root": place}
