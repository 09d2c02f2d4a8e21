"""The words of a command line -> group choices and values, with every mistake in them found at once."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrun.config import vary
from kdrun.config.groups import ORDER, SEVERAL, ConfDir, Groups
from kdrun.config.option_file import defaults_of, load
from kdrun.config.trees import at
from kdrun.problems import Problems, UserError, closest, listed

LAUNCHERS = ("submitit_slurm", "submitit_local", "ray")


@dataclass
class Words:
    """groups: overrides for Hydra's defaults list. values: (dotted key, value) in order; deleted: dotted keys."""

    groups: list[str] = field(default_factory=list)
    values: list[tuple[str, Any]] = field(default_factory=list)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    typed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HydraWords:
    """What the `hydra/...` and `hydra....` words of a multirun say about how it is run, and the other words."""

    words: list[str]
    launcher: str | None
    sweeper: str | None
    settings: list[str]


def check_texts(overrides: Sequence[str]) -> None:
    """Raises UserError for what is no text, as a list of words given from Python."""
    for text in overrides:
        if not isinstance(text, str):
            raise UserError(f"{text!r}: overrides are texts, one by one: 'data=digits', 'seed=0' (of a list: *words)")


def without_engine(overrides: Sequence[str]) -> HydraWords:
    """Take the launcher, its settings and the sweeper out of a multirun's words. UserError for a name we do not have."""
    check_texts(overrides)
    kept, settings = [], []
    chosen: dict[str, str | None] = {"hydra/launcher": None, "hydra/sweeper": None}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key in chosen:
            chosen[key] = None if value == "basic" else value
        elif key.startswith("hydra.launcher."):
            settings.append(text)
        else:
            kept.append(text)
    launcher, sweeper = chosen.values()
    if sweeper not in (None, "optuna"):
        names = ("basic", "optuna")
        raise UserError(f"hydra/sweeper={sweeper}: no such sweeper{closest(str(sweeper), names)}; all: {listed(names)}")
    searching = [text for text in kept if text.lstrip("+").startswith("hydra.sweeper.")]
    if searching and not sweeper:
        raise UserError(f"{searching[0]}: a setting of a search: add hydra/sweeper=optuna")
    if settings and not launcher:
        raise UserError(f"{settings[0]}: which launcher? add hydra/launcher=NAME; all: {listed(LAUNCHERS)}")
    return HydraWords(kept, launcher, sweeper, settings)


def read(overrides: Sequence[str], table: Groups, dirs: Sequence[ConfDir], problems: Problems) -> Words:
    """Sort overrides into group choices and values; what is wrong goes to `problems` and is left out."""
    check_texts(overrides)
    words = Words()
    for text in overrides:
        override = parse(text, problems)
        if override is None:
            continue
        if isinstance(override, tuple):  # a whole mapping as W&B agents pass it
            words.values.append(override)
            words.typed[override[0]] = text
            continue
        key, value = override.key_or_group, override.value()
        if vary.misspelt(key, text, problems):
            continue
        key = vary.KEY if key == vary.TYPED else key
        if override.is_sweep_override():
            problems.add(*_sweep(text, key))
        elif key == "hydra" or key.startswith(("hydra/", "hydra.")):
            _hydra(text, key, value, problems)
        elif override.is_delete():
            is_group = key in table or key in ORDER
            words.groups.append(text) if is_group else words.deleted.append((key, text))
        elif (key in table or key in ORDER) and not isinstance(value, dict):
            if _option(text, key, value, table, dirs, problems):
                words.groups.append(text.lstrip("+") if value is not None else f"~{key}")
        elif "/" in key:
            top, _, rest = key.partition("/")
            nested = f"{rest}/{value}" if f"{rest}/{value}" in table.get(top, {}) else None
            problems.add(
                f"{text}: no group {key!r}" + ("" if nested else closest(key, table)),
                f"type {top}={nested}" if nested else f"groups: {listed(table)}",
            )
        elif value == "" and not text.endswith(("''", '""')):
            problems.add(f"{text}: no value", f"type {key}=null for none")
        else:
            words.values.append((key, option_of_part(key, value, table)))
            words.typed[key] = text
    return words


def option_of_part(key: str, value: Any, table: Groups) -> Any:
    """`teacher.trainer.optimizer=sam`: an option that the run's trainer has, for a part of the run with a trainer of its own. What the
    option's file says; a value as it is where no option is meant, or one that is composed of others."""
    part = re.fullmatch(r"(?:teacher|student|pretrain|assistants\.\w+)\.(trainer\.\w+)", key)
    option = table.get(part.group(1).replace(".", "/"), {}).get(value) if part and isinstance(value, str) else None
    return value if option is None or defaults_of(option.file) else load(option.file)


def parsed(text: str, options: Any = None) -> Any:
    """Hydra's Override of one word; ValueError, with what Hydra says, where it cannot be read. options: what glob() chooses from."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except (HydraException, RecursionError) as error:
        raise ValueError((str(error).splitlines() or ["it cannot be read"])[0]) from error
    override.config_loader = options
    return override


def parse(text: str, problems: Problems) -> Any:
    """Hydra's Override, a (key, mapping) pair, or None where the words cannot be read."""
    added = re.match(r"\+{0,2}([\w./@]+)\+=(.*)", text)
    if added:
        key, value = added.groups()
        if key == "tags":
            value = value.strip("[]").split(",")[0] or "x"
            problems.add(f"{text}: lists cannot be extended; tags are switches: tags.{value}=true")
        else:
            problems.add(f"{text}: lists cannot be extended; give the whole list: '{key}=[...]'")
        return None
    if "=" not in text and not text.startswith("~"):
        problems.add(f"{text}: expected KEY=VALUE")
        return None
    if not text.partition("=")[0].strip("+~"):
        problems.add(f"{text}: no key before '='")
        return None
    try:
        return parsed(text)
    except ValueError as error:
        key, _, value = text.partition("=")
        mapping = _mapping(value)
        if mapping is not None:
            return key.lstrip("+"), mapping
        problems.add(*_unreadable(text, key, value, str(error)))
        return None


def _mapping(value: str) -> dict[str, Any] | None:
    """`{'lr': 0.1}` and `{"lr": 0.1}`: Python's and JSON's way, which Hydra's grammar does not have."""
    if not value.startswith("{"):
        return None
    for reader in (json.loads, ast.literal_eval):
        try:
            found = reader(value)
        except (ValueError, SyntaxError):
            continue
        return found if isinstance(found, dict) else None
    return None


def _unreadable(text: str, key: str, value: str, reason: str) -> list[str]:
    if not re.fullmatch(r"[+~]{0,2}[\w./@$-]+", key):
        return [f"{text}: {key!r} is not a key; keys are words joined by dots"]
    if any(sign in value for sign in "=(){}[]:, '\"") and value.count("[") == value.count("]"):
        inner = value.replace("'", "\\'")
        return [f"{text}: the value has signs of the override grammar; quote it twice: \"{key}='{inner}'\""]
    return [f"{text}: {reason}"]


def _sweep(text: str, key: str) -> list[str]:
    value = text.partition("=")[2]
    if key == SEVERAL:
        return [
            f"{text} is a sweep: add -m for one job per value",
            f"as one job with the terms of all: {key}=[{value}]",
        ]
    if key == "seed":
        return [f"{text} is a sweep: add -m for one job per seed", f"one job over these seeds: 'seeds=[{value}]'"]
    return [f"{text} is a sweep: add -m for one job per value", f"as one value: quote it, \"{key}='{value}'\""]


def _hydra(text: str, key: str, value: Any, problems: Problems) -> None:
    """kdrun only composes with Hydra. What would be ignored is refused."""
    if key in ("hydra/launcher", "hydra/sweeper") and value == "basic":
        return
    if key in ("hydra/launcher", "hydra/sweeper") or key.startswith(("hydra.launcher.", "hydra.sweeper.")):
        problems.add(f"{text}: belongs to a sweep: add -m")
    elif key.startswith(("hydra.run", "hydra.sweep", "hydra.job")):
        problems.add(f"{text}: not used; paths.outputs=DIR sets where runs are recorded")
    elif key == "hydra.searchpath":
        problems.add(f"{text}: not used; --conf DIR adds a folder of configs")
    else:
        problems.add(f"{text}: kdrun does not use this setting of Hydra")


def _option(text: str, key: str, value: Any, table: Groups, dirs: Sequence[ConfDir], problems: Problems) -> bool:
    """Does the group have what was asked for?"""
    options = table.get(key, {})
    names = value if isinstance(value, list) else [value]
    good = not isinstance(value, list) or key == SEVERAL
    if not good:
        problems.add(f"{text}: one option of {key} at a time; several are for {SEVERAL}: {SEVERAL}=[kd,hint]")
    elif len(set(map(str, names))) < len(names):
        good = False
        problems.add(f"{text}: the same option twice")
    for name in names:
        if name is None or str(name) in options:
            continue
        good = False
        if not options:
            folder = dirs[0].shown() if dirs[0].origin == "--conf" else "DIR"
            problems.add(
                f"no {key} {str(name)!r}: there is none yet",
                f"put one into {folder}/{key}/{name}.yaml and add --conf {folder}",
            )
        elif str(name) == "":
            problems.add(f"{text}: no value; all: {listed(options)}")
        else:
            problems.add(f"no {key} {str(name)!r}{closest(str(name), options)}; all: {listed(options)}")
    return good


class _Options:
    """What Hydra's glob() asks its config loader for."""

    def __init__(self, table: Groups) -> None:
        self.table = table

    def get_group_options(self, group_name: str, *_: Any, **__: Any) -> list[str]:
        return list(self.table.get(group_name, {}))


def split_sweep(overrides: Sequence[str], table: Groups) -> list[list[str]]:
    """Hydra's BasicSweeper: the product of all `a,b`, `choice()`, `range()` and `glob()` values, the last word fastest.

    Words that are no sweep stay as they were typed, in each job.
    """
    from itertools import product

    from hydra.errors import HydraException

    choices: dict[str, list[str]] = {}
    for text in overrides:
        try:
            override = parsed(text, _Options(table))
        except ValueError:
            choices[text] = [text]  # compose() explains it
            continue
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [text]
        elif override.is_discrete_sweep():
            try:
                choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            except HydraException as error:
                raise UserError(f"{text}: {str(error).splitlines()[0]}") from None
            if not choices[key]:
                raise UserError(f"{text}: no value fits", f"{key} has: {listed(table.get(key, {}))}")
        else:
            raise UserError(
                f"{text}: interval() needs a search: add hydra/sweeper=optuna", f"or list values: {key}=a,b,c"
            )
    return [list(job) for job in product(*choices.values())]


def apply(tree: dict[str, Any], words: Words, problems: Problems) -> None:
    """Put the typed values into `tree`. Unknown keys are put in too: the schema check names them."""
    for key, text in words.deleted:
        above, _, last = key.rpartition(".")
        node: Any = at(tree, above)
        if isinstance(node, dict) and last in node:
            del node[last]
        else:
            known = node if isinstance(node, dict) else ()
            problems.add(f"{text}: there is nothing to remove{closest(last, known)}")
    for key, value in words.values:
        node = tree
        *parents, last = key.split(".")
        for number, part in enumerate(parents):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
                continue
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict | list):
                above = ".".join(parents[: number + 1])
                problems.add(f"{words.typed[key]}: {above} is a value ({node!r}), it has no keys")
                break
        else:
            if isinstance(node, list):
                if last.isdigit() and int(last) < len(node):
                    node[int(last)] = value
                else:
                    problems.add(f"{words.typed[key]}: the list has {len(node)} entries, counted from 0")
            else:
                put(node, last, value)


def put(node: dict[str, Any], name: str, value: Any) -> None:
    """Mappings merge key by key; one that names another `_target_` takes the place of the old."""
    old = node.get(name)
    if (
        isinstance(value, dict)
        and isinstance(old, dict)
        and value.get("_target_", old.get("_target_")) == old.get("_target_")
    ):
        for inner, item in value.items():
            put(old, str(inner), item)
    else:
        node[name] = value
