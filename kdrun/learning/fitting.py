"""Which of the shipped objectives a task has everything for, for messages about those that it has not."""

from __future__ import annotations

from collections.abc import Collection

from kdrun import losses, targets
from kdrun.config import groups
from kdrun.config.option_file import load
from kdrun.objectives.objective_term import FROM_BATCH
from kdrun.problems import UserError


def fitting(given: Collection[str]) -> list[str]:
    """Options of `objective` all of whose terms are functions of these tensors: first those that compare with a teacher, and of these the ones
    that could use nothing more, by the length of their names."""
    dirs, _ = groups.conf_dirs()
    found: dict[str, tuple[bool, int, int]] = {}
    for name, option in groups.groups(dirs)["objective"].items():
        terms = {key: node for key, node in load(option.file).items() if key != "defaults"}
        wanted = [_wanted(key, node) for key, node in terms.items()]
        there = {*given, *FROM_BATCH, "mask"}
        if wanted and all(
            names is not None and {one for one, must in names.items() if must} <= there for names in wanted
        ):
            every = {one for names in wanted for one in names}
            taught = any(one.startswith("teacher_") for one in every)
            found[name] = not taught, len(every - there), len(name)
    return sorted(found, key=lambda name: (found[name], name))


def _wanted(name: str, node: object) -> dict[str, bool] | None:
    """Tensors that a term takes, and whether it must be given them; None where it is no function."""
    try:
        known = targets.signature(losses.resolve(name, node)[0]) if isinstance(node, dict) else None
    except UserError:
        return None
    if known is None or known.kind != "function":
        return None
    return {each.name: each.required for each in known.parameters.values() if each.kind == "positional"}
