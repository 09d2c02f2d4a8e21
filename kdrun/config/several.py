"""Several options of a group in one job, `objective=[kd,at]`: the terms of all, where the options agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdrun.config.groups import SEVERAL, ConfDir, Groups
from kdrun.config.hydra import compose_groups
from kdrun.config.option_file import line_of
from kdrun.config.origins import Origins
from kdrun.config.presets import PRESETS
from kdrun.defaults import canonical_objective
from kdrun.problems import Problems


def join(
    tree: dict[str, Any],
    choices: Mapping[str, Any],
    origins: Origins,
    dirs: Sequence[ConfDir],
    table: Groups,
    problems: Problems,
) -> list[str]:
    """Brings the terms of `tree["objective"]` into an order that is the same however the options were ordered, so that one hash is
    one result. Returns what to tell.

    A weight in which two options differ is that of the option that is named first, which is told. Another setting in which they
    differ is a problem. What was typed, or an experiment or a family says, holds for all of them."""
    names, notes = choices.get(SEVERAL), []
    if not isinstance(names, list) or len(names) < 2 or not isinstance(tree.get(SEVERAL), dict):
        return []
    terms: dict[str, dict[str, Any]] = {}  # of each option: term -> its settings
    for name in names:
        composed = compose_groups([f"{SEVERAL}={name}"], dirs, table, problems)
        if composed is None:
            return []
        terms[name] = {
            term: node for term, node in (composed.tree.get(SEVERAL) or {}).items() if isinstance(node, dict)
        }
    order = {term: None for name in sorted(terms) for term in terms[name]}
    tree[SEVERAL] = {term: tree[SEVERAL][term] for term in (*order, *tree[SEVERAL]) if term in tree[SEVERAL]}
    for term in order:
        having = [name for name in terms if term in terms[name]]
        first, *others = having
        differing = [key for name in others for key in _differing(term, terms[first][term], terms[name][term])]
        for key in dict.fromkeys(differing):
            path, values = f"{SEVERAL}.{term}.{key}", [(name, terms[name][term].get(key)) for name in having]
            if _said(path, origins):
                continue
            if key != "weight":
                _tell(path, values, table, problems)
                continue
            (_, weight), *rest = values
            tree[SEVERAL][term][key] = weight
            they = ", ".join(f"{name} has {_written(value)}" for name, value in rest)
            notes.append(f"{path}={_written(weight)}, as in {first}, which is named first; {they}")
    return notes


def _differing(term: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Settings of a term that two options give differently; a default that is written out is one that is not."""
    one, other = (canonical_objective({term: node})[term] for node in (one, other))
    return [key for key in {**one, **other} if one.get(key) != other.get(key) or (key in one) != (key in other)]


def _said(path: str, origins: Origins) -> bool:
    """Whether the job says it over its options: typed, or in an experiment or a family."""
    above = [path.rsplit(".", number)[0] for number in range(path.count("."))]
    if any(each in origins.typed for each in above):
        return True
    return any(option.group in PRESETS and line_of(option.file, package, path) for package, option in origins.files())


def _tell(path: str, values: list[tuple[str, Any]], table: Groups, problems: Problems) -> None:
    said = [f"{_written(value)} ({table[SEVERAL][name].shown})" for name, value in values]
    typed = next(value for _, value in values if value is not None)
    example = f"{path}={typed}" if isinstance(typed, int | float | str) else f"{path}=VALUE"
    problems.add(
        f"{SEVERAL}=[{','.join(name for name, _ in values)}]: they differ in {path}: {', '.join(said)}",
        f"say it once, for all of them: {example}",
    )


def _written(value: Any) -> str:
    return "its default" if value is None else str(value)
