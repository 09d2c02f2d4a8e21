"""Tasks of a sequence (strategy=continual): what `strategy.tasks` may say, and the parts of a data set that it means."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from kdrun.problems import UserError, closest, listed

CLASSES, TYPES = "classes", "types"
"""What a data set is divided by (domains.base.Domain.divided)."""
FEW = 5
"""Into how many tasks classes are divided where nothing is said."""


def check_tasks(tasks: int | list[Any] | None) -> None:
    """Raises UserError for what are no tasks."""
    said = f"strategy.tasks={tasks}"
    if tasks is None:
        return
    if isinstance(tasks, int):
        if tasks < 2:
            raise UserError(f"{said}: a sequence has at least two tasks")
        return
    kinds = {type(task) for task in tasks}
    if len(tasks) < 2 or kinds not in ({list}, {dict}) or not all(tasks):
        raise UserError(
            f"{said}: a number, lists of classes or of types of questions, or keys of data, for at least two tasks",
            "as in 5, [[0, 1], [2, 3]], [[image_answer], [audio_answer]] or [{view: grey}, {view: edges}]",
        )
    if kinds == {dict}:
        return
    parts = [part for task in tasks for part in task]
    names = [part for part in parts if isinstance(part, str)]
    if wrong := [
        part for part in parts if (type(part) is not int and part not in names) or (type(part) is int and part < 0)
    ]:
        raise UserError(f"{said}: {wrong[0]!r} is not the number of a class", "classes have numbers from 0")
    if names and len(names) < len(parts):
        raise UserError(
            f"{said}: {names[0]!r} is not the number of a class", "numbers for all classes, or names for all"
        )
    if double := [part for part in dict.fromkeys(parts) if parts.count(part) > 1]:
        what = f"class {double[0]}" if isinstance(double[0], int) else double[0]
        raise UserError(f"{said}: {what} is there twice; each is in one task")


def divided(tasks: int | list[Any] | None, by: str, known: dict[str, Any], order: int | None) -> list[list[Any]]:
    """The classes (numbers; the tasks may name them) or types (names) of each task.

    by: CLASSES or TYPES; known: what Lab.known_of says of the data; order: seed of a random order of those that a number of tasks is
    made from. Raises UserError where there are too few, or not these.
    """
    if by == TYPES and known["types"] is None:  # nothing is loaded: only the form of the stages is asked for
        return tasks if isinstance(tasks, list) else [[f"type {number}"] for number in range(tasks or 2)]
    count = known["classes"] or 0
    members = list(range(count)) if by == CLASSES else list(known["types"])
    if isinstance(tasks, list):
        said, named = f"strategy.tasks={tasks}", members
        if by == CLASSES and isinstance(tasks[0][0], str):
            named = known["names"] or [
                part for task in tasks for part in task
            ]  # where nothing is loaded: made-up classes
            tasks = [[named.index(part) if part in named else part for part in task] for task in tasks]
        if wrong := [part for task in tasks for part in task if part not in members]:
            if by == CLASSES and isinstance(wrong[0], int):
                raise UserError(f"{said}: the data have no class {max(wrong)}; they have {count or 'none'}, from 0")
            raise UserError(
                f"{said}: the data have no {wrong[0]!r}{closest(str(wrong[0]), named)}",
                f"there are: {listed(named, 20)}",
            )
        return tasks
    groups = tasks or (FEW if by == CLASSES else len(members))
    if len(members) < max(groups, 2):
        raise UserError(
            f"strategy.tasks={groups}: the data have {len(members) or 'no'} {by}, and each task needs at least one",
            f"at most strategy.tasks={len(members)}" if members else f"give data with {by}, or tasks as keys of data",
        )
    if order is not None:
        random.Random(order).shuffle(members)
    size, more = divmod(len(members), groups)
    ends = [number * size + min(number, more) for number in range(groups + 1)]
    return [sorted(members[start:end]) for start, end in pairwise(ends)]


def members(keys: dict[str, dict[str, Any]], names: Sequence[str], key: tuple[str, str]) -> list[Any]:
    """The classes or types of some tasks together. key: Domain.divided."""
    return [part for name in names for part in keys[name][key[0]][key[1]]]


def name_of(number: int, keys: dict[str, Any]) -> str:
    """`task 1 (grey)`: of a task that differs in these keys of data; of a path its last part."""
    values = [str(value).rpartition(os.sep)[2] for value in keys.values() if isinstance(value, str | int | float)]
    return f"task {number}" + (f" ({', '.join(values)})" if values else "")
