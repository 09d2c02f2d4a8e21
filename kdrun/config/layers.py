"""Where a part of the config has a key of its own that the whole run has too: which of the two counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdrun.config.origins import Origins

ROOTS = ("trainer", "data")
"""Parts of the run that a learner, or the first phase, may have differently."""


def settle(tree: dict[str, Any], given: Mapping[str, Any], origins: Origins) -> list[str]:
    """What was typed for the run (`trainer.epochs=3`) wins over what a file says for one learner (`student.trainer.epochs: 4`
    of a family); what was typed for that learner wins over both. given: every typed dotted key without keys below it.

    Returns what is to be told: a preset's setting of the run that a learner's own of a file hides, and a typed one that
    the first phase (`pretrain`, with a length and data of its own) does not follow.
    """
    notes = []
    for block, path in _leaves_of_blocks(tree):
        base = path.removeprefix(f"{block}.")
        if path in given or _at(tree, base) == _at(tree, path):
            continue
        if base in given and block != "pretrain":
            *parents, last = path.split(".")
            _at(tree, ".".join(parents))[last] = given[base]
        elif base in given or _of_preset(base, origins):
            both = [f"{name}={_at(tree, name)} ({origins.place(name)})" for name in (path, base)]
            said = origins.typed.get(base, both[1])
            notes.append(f"{both[0]} stays beside {said}; to change it: {path}={_at(tree, base)}")
    return notes


def typed_leaves(values: list[tuple[str, Any]]) -> dict[str, Any]:
    """Typed (key, value) pairs, mappings taken apart; the later of two wins."""
    found: dict[str, Any] = {}
    for key, value in values:
        found.update(mapping_leaves(value, key))
    return found


def _of_preset(path: str, origins: Origins) -> bool:
    """Whether an experiment sets it: a file that was chosen for this run, over the family's."""
    return any(
        option.group == "experiment" and origins.line(option, package, path) for package, option in origins.files()
    )


def _leaves_of_blocks(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(`student`, `student.trainer.epochs`) of every key that a part has of its own."""
    assistants = tree.get("assistants")
    blocks = ["teacher", "student", *(f"assistants.{name}" for name in assistants or ()), "pretrain"]
    for block in blocks:
        node = _at(tree, block)
        for root in ROOTS:
            own = node.get(root) if isinstance(node, dict) else None
            if isinstance(own, dict) and isinstance(tree.get(root), dict):
                yield from (
                    (block, path) for path, _ in mapping_leaves(own, f"{block}.{root}") if path != f"{block}.{root}"
                )


def mapping_leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything below `path` that is not a mapping with entries; a list is one value."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from mapping_leaves(item, f"{path}.{name}")
    else:
        yield path, value


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
