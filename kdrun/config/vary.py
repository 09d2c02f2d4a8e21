"""What differs from seed to seed of a job (`seeds.vary`): the student's seed always; those of its teachers and of the split on demand.

The teacher of student seed s has the seed teacher.seed + s, an assistant assistants.NAME.seed + s, and the split data.split_seed + s. All
arms of a seed so have the same teacher and the same split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.config.trees import at
from kdrun.problems import Problems, closest, listed

TYPED, KEY = "seeds.vary", "vary"
"""How it is typed, and where it stands in a config."""
STUDENT, TEACHER, SPLIT = "student", "teacher", "split"
ALL = (STUDENT, TEACHER, SPLIT)
DEFAULT = (STUDENT,)


def misspelt(typed: str, text: str, problems: Problems) -> bool:
    """Whether a typed key stands below `seeds` and is none; then a problem tells it."""
    if typed == TYPED or not typed.startswith(("seed.", "seeds.")):
        return False
    problems.add(
        f"{text}: no such key{closest(typed, [TYPED])}",
        f"seeds=5 says how many, '{TYPED}=[student,teacher]' what differs",
    )
    return True


def check(tree: dict[str, Any], said: str, problems: Problems) -> None:
    """What the schema does not say of it. said: how a person wrote it."""
    vary, usual = tree.get(KEY), f"'{TYPED}=[student,teacher]'"
    if not isinstance(vary, list):
        tree[KEY] = list(DEFAULT)
        problems.add(f"{said}: expected a list of {listed(ALL)}", f"as in {usual}")
    elif not {*map(str, vary)} <= {*ALL}:
        return  # the schema names the nearest
    elif STUDENT not in vary:
        problems.add(f"{said}: runs are told apart by the student's seed", f"'{TYPED}=[{','.join([STUDENT, *vary])}]'")
    elif len({*vary}) < len(vary):
        problems.add(f"{said}: the same twice")


def varied(tree: Mapping[str, Any], seed: int) -> dict[str, int]:
    """Dotted key -> its value for a student's seed. One that is written with `${seed}` follows by itself."""
    vary = tree.get(KEY)
    vary = vary if isinstance(vary, list) else ()
    teachers = ["teacher", *(f"assistants.{name}" for name in tree.get("assistants") or ())]
    keys = [*(f"{name}.seed" for name in teachers if TEACHER in vary), *(["data.split_seed"] if SPLIT in vary else [])]
    values = {key: 0 if (value := at(tree, key)) is None else value for key in keys}
    return {key: value + seed for key, value in values.items() if isinstance(value, int)}
