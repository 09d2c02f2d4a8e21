"""Where a part of the config has a key of its own that the whole run has too: which of the two counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kdrun.config.option_file import line_of
from kdrun.config.origins import Origins
from kdrun.config.trees import as_typed, at, leaves, put_at

ROOTS = ("trainer", "data")
"""Parts of the run that a learner, or the first phase, may have differently."""


def settle(tree: dict[str, Any], given: Mapping[str, Any], origins: Origins) -> list[str]:
    """What was typed for the run (`trainer.epochs=3`) wins over what a file says for one learner (`student.trainer.epochs: 4`
    of a family); what was typed for that learner wins over both. given: every typed dotted key without keys below it.

    Returns what is to be told: a preset's setting of the run that a learner's own of a file hides, a typed one that
    the first phase (`pretrain`, with a length and data of its own) does not follow, and a typed one of data that a teacher
    follows whose data a file lets differ.
    """
    notes = []
    for block, path in _leaves_of_blocks(tree):
        base = path.removeprefix(f"{block}.")
        if path in given or at(tree, base) == at(tree, path):
            continue
        of_data = base.startswith("data.")
        if base in given and block != "pretrain":
            if of_data:
                said = f"{origins.typed.get(base, base)} is for {block} too, in the place of {path}={as_typed(at(tree, path))}"
                notes.append(f"{said} ({origins.place(path)}); to keep that: {path}={as_typed(at(tree, path))}")
            put_at(tree, path, given[base])
        elif block != "pretrain" and of_data:
            continue  # a difference that was meant
        elif base in given or _of_preset(base, origins):
            both = [f"{name}={at(tree, name)} ({origins.place(name)})" for name in (path, base)]
            said = origins.typed.get(base, both[1])
            notes.append(f"{both[0]} stays beside {said}; to change it: {path}={at(tree, base)}")
    return notes


def followers(tree: dict[str, Any], path: str, given: Collection[str]) -> list[str]:
    """Dotted keys of learners that `settle` gave what was typed for the run (`trainer.epochs`): those of their own that nobody typed."""
    return [
        own
        for block, own in _leaves_of_blocks(tree)
        if block != "pretrain" and own == f"{block}.{path}" and own not in given
    ]


def typed_leaves(values: list[tuple[str, Any]]) -> dict[str, Any]:
    """Typed (key, value) pairs, mappings taken apart; the later of two wins."""
    found: dict[str, Any] = {}
    for key, value in values:
        found.update(leaves(value, key, lists=False))
    return found


def _of_preset(path: str, origins: Origins) -> bool:
    """Whether an experiment sets it: a file that was chosen for this run, over the family's."""
    return any(
        option.group == "experiment" and line_of(option.file, package, path) for package, option in origins.files()
    )


def _leaves_of_blocks(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(`student`, `student.trainer.epochs`) of every key that a part has of its own."""
    assistants = tree.get("assistants")
    blocks = ["teacher", "student", *(f"assistants.{name}" for name in assistants or ()), "pretrain"]
    for block in blocks:
        node = at(tree, block)
        for root in ROOTS:
            own = node.get(root) if isinstance(node, dict) else None
            if isinstance(own, dict) and isinstance(tree.get(root), dict):
                yield from ((block, path) for path, _ in leaves(own, f"{block}.{root}", lists=False) if own)
