"""Dotted keys that can be typed next, for completion: the schema's and those of the chosen options' files.

Reads at most a dozen small YAML files; composes nothing, so it is fast and, where configs interpolate, approximate.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any

from kdrun.config import vary
from kdrun.config.groups import ConfDir, Groups, Option, main_option
from kdrun.config.option_file import load
from kdrun.config.trees import leaves
from kdrun.defaults import strategy_options
from kdrun.kinds import choices_of


def known_keys(words: Sequence[str], table: Groups, dirs: Sequence[ConfDir]) -> dict[str, str]:
    """Dotted key -> one line of help, for the choices that `words` make."""
    from kdrun.schema import Root

    found = dict(_of_schema(Root, "", task_of(words, table, dirs)))
    found[vary.TYPED] = found.pop(vary.KEY)
    choices = chosen(words, table, dirs).items()
    for group, name in [(group, name) for group, names in choices for name in names.strip("[]").split(",")]:
        option = table.get(group, {}).get(name)
        if option is not None and group not in ("model", "experiment"):
            package = f"{group.replace('/', '.')}.{option.part}".rstrip(".")
            for path in _of_file(option, package, table, 0):
                found.setdefault(path, "")
    return found


def task_of(words: Sequence[str], table: Groups, dirs: Sequence[ConfDir]) -> str | None:
    """The kind of data that these words choose, as far as a file or a word says it."""
    typed = dict(word.partition("=")[::2] for word in words if "=" in word)
    option = table.get("data", {}).get(chosen(words, table, dirs).get("data", ""))
    said = typed.get("data.task") or (load(option.file).get("task") if option else None)
    return said if isinstance(said, str) else None


def values(key: str, task: str | None = None) -> list[str]:
    """What can stand after `key=` where the schema has a list of it. task: the kind of data."""
    from dataclasses import is_dataclass

    from kdrun.schema import Root, bare, fields

    node: Any = Root
    *parents, last = key.split(".")
    for part in parents:
        keys = fields(node, task) if isinstance(node, type) and is_dataclass(node) else ()
        node = next((bare(item.type) for item in keys if item.name == part), None)
    if not (isinstance(node, type) and is_dataclass(node)):
        return []
    item = next((item for item in fields(node, task) if item.name == last), None)
    if item is None:
        return []
    return list(choices_of(item.metadata) or ()) or (["true", "false"] if item.type is bool else [])


def chosen(words: Sequence[str], table: Groups, dirs: Sequence[ConfDir]) -> dict[str, str]:
    """group -> option: config.yaml's defaults, over them the family's, the preset's, and what is typed."""
    typed = dict(word.partition("=")[::2] for word in words if "=" in word)
    result = {key: value for key, value in _defaults(load(main_option(dirs).file)) if isinstance(value, str)}
    for preset in ("model", "experiment"):
        option = table.get(preset, {}).get(typed.get(preset, result.get(preset, "")))
        entries = _defaults(load(option.file)) if option else []
        result |= {
            k.removeprefix("override /"): v for k, v in entries if k.startswith("override /") and isinstance(v, str)
        }
    return result | {group: name for group, name in typed.items() if group in table}


def _defaults(tree: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs = [entry if isinstance(entry, dict) else {"": entry} for entry in tree.get("defaults") or ()]
    return [(str(key).removeprefix("optional "), value) for pair in pairs for key, value in pair.items()]


def _of_file(option: Option, package: str, table: Groups, depth: int) -> Iterator[str]:
    tree = load(option.file)
    if depth > 4:
        return
    for key, value in _defaults(tree):
        absolute = key.startswith("/")
        group, _, inner = key.lstrip("/").partition("@")
        group = group if absolute else f"{option.group}/{group}".rstrip("/")
        part = table.get(group, {}).get(value) if isinstance(value, str) else None
        if part is not None and value != "_self_":
            below = inner or ("" if not key else key.rpartition("/")[2])
            yield from _of_file(part, f"{package}.{below}".rstrip("."), table, depth + 1)
    own = {key: value for key, value in tree.items() if key != "defaults"}
    own = strategy_options(own) if package == "strategy" else own
    yield from (path for path, _ in leaves(own, package, lists=False) if own)


def _of_schema(node: type, prefix: str, task: str | None) -> Iterator[tuple[str, str]]:
    from dataclasses import is_dataclass

    from kdrun.schema import TargetNode, bare, fields, irrelevant

    for item in fields(node, task):
        kind = bare(item.type)
        if of := item.metadata.get("differs"):
            help = item.metadata["help"]
            yield from ((f"{prefix}{item.name}.{name}", help) for name in irrelevant(of, "training", task=task))
        elif isinstance(kind, type) and is_dataclass(kind):
            yield from _of_schema(kind, f"{prefix}{item.name}.", task)
        elif kind is not TargetNode and typing.get_origin(kind) is not dict:
            yield f"{prefix}{item.name}", item.metadata.get("help", "")
