"""What to type instead: for a single value where a mapping, or the option of a group, is due, and for a wrong key."""

from __future__ import annotations

import types
import typing
from dataclasses import is_dataclass
from typing import Any

from kdrun.config.groups import Groups
from kdrun.config.option_file import load
from kdrun.config.overrides import option_of_part
from kdrun.kinds import choices_of
from kdrun.problems import listed, nearest
from kdrun.schema import Root, TargetNode, Weight, bare, fields, irrelevant


def meant(path: str, value: Any, groups: Groups, kind: type | None = None) -> str:
    """One line, or "" where nothing can be guessed: `type trainer/optimizer=adamw`, `type objective.kd.weight=0.5`.

    kind: the dataclass whose keys may stand below `path`.
    """
    parts, word = path.split("."), str(value)
    for group in ("/".join(parts), ".".join(parts[:-1])):
        options = groups.get(group, {})
        if word in options:
            return f"type {group}={word}"
        if options and group == "/".join(parts):
            near = nearest(word, options)
            return f"{group} is a group: {group}={near}" if near else f"{group} is a group with {listed(options)}"
    for name in _keys(kind, value) if kind else ():
        return f"type {path}.{name}={str(value).lower() if isinstance(value, bool) else value}"
    # A learner's own block has the keys of a group of the run: student.trainer.optimizer those of trainer/optimizer.
    for start in range(1, len(parts)):
        options = groups.get("/".join(parts[start:]), {})
        option = options.get(word if word in options else nearest(word, options) or "")
        if option is not None:
            by_name = option_of_part(path, option.name, groups) != option.name
            return f"type {path}={option.name}" if by_name else f"type '{path}={_own(option.file)}'"
    return ""


def _keys(kind: type, value: Any) -> list[str]:
    """Keys of a dataclass that can have this value: those that list it, or for numbers and switches those of its type."""
    found = []
    for item in fields(kind):
        choices = (*(choices_of(item.metadata) or ()), *item.metadata.get("meant", ()))
        types_of = typing.get_args(item.type) if isinstance(item.type, types.UnionType) else (item.type,)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        of_type = not isinstance(value, str) and (type(value) in types_of or (number and {float, Weight} & {*types_of}))
        if of_type or value in choices:
            found.append(item.name)
    return found


def _own(file: str) -> str:
    """What an option's file says, on one line as it can be typed; without the options it is composed of."""
    import yaml

    tree = {name: value for name, value in load(file).items() if name != "defaults"}
    return yaml.safe_dump(tree, default_flow_style=True, width=10_000, sort_keys=False).strip()


def schema_paths(kind: type = Root, prefix: str = "", task: str | None = None) -> dict[str, dict[str, Any]]:
    """Every dotted key of the schema -> its metadata; nodes too. task: as for schema.fields."""
    found: dict[str, dict[str, Any]] = {}
    for item in fields(kind, task):
        path = f"{prefix}{item.name}"
        found[path] = {**item.metadata, "type": item.type}
        inner = bare(item.type)
        if of := item.metadata.get("differs"):
            found |= {f"{path}.{name}": {} for name in irrelevant(of, "training", task=task)}
        elif isinstance(inner, type) and is_dataclass(inner):
            found |= schema_paths(inner, f"{path}.", task)
        elif inner is TargetNode and item.name == "optimizer":
            found |= {f"{path}.{name}": {"help": "of the optimizer"} for name in ("_target_", *item.metadata["ranges"])}
    return found


def nearest_path(path: str, task: str | None = None) -> str | None:
    """The key of the schema that a wrong path most likely meant: `model.optimzer.lr` -> `trainer.optimizer.lr`."""
    known = list(schema_paths(task=task))
    parts = path.split(".")
    whole = nearest(path, known)
    if whole:
        return whole
    for start in range(len(parts)):
        tail = parts[start:]
        ends: dict[str, str] = {}
        for name in known:  # the first of equals: the run's own trainer before that of a learner
            pieces = name.split(".")
            if len(pieces) >= len(tail):
                ends.setdefault(".".join(pieces[-len(tail) :]), name)
        if len(tail) > 1 or start == 0:
            near = nearest(".".join(tail), ends)
            if near:
                return ends[near]
    return None
