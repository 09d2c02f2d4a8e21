"""Which packages the user lets configs call: typed, in `kdrun.yaml` of a --conf folder, by an installed plugin, or earlier.

What a config may call is said by the person at the shell, never by a record, a weights file or a folder that somebody sent. So what
was once allowed for an outputs folder is kept in the user's own cache; there a run that is read again finds it, and a run that
came from elsewhere does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdrun import slots
from kdrun.config import groups as places
from kdrun.config.groups import ConfDir
from kdrun.environment import allow, readable, variables_in
from kdrun.files import read_json, write_json
from kdrun.problems import UserError
from kdrun.schema import REQUIRED, default_cache

SETTINGS = "kdrun.yaml"
FOLDER = "allowed"


def in_folders(dirs: Sequence[ConfDir]) -> dict[str, str]:
    """Package -> what declares it: a plugin, or the kdrun.yaml of a folder."""
    found = {conf.package: conf.origin for conf in dirs if conf.package}
    for conf in dirs:
        path = os.path.join(conf.path, SETTINGS)
        if not os.path.isfile(path):
            continue
        import yaml

        with open(path, encoding="utf-8") as file:
            try:
                content = yaml.safe_load(file)
            except yaml.YAMLError as error:
                raise UserError(f"{conf.shown(path)}: {str(error).splitlines()[0]}") from None
        if content is not None and (not isinstance(content, dict) or set(content) - {"targets"}):
            raise UserError(f"{conf.shown(path)}: expected only `targets: {{mylab: true}}`")
        found |= dict.fromkeys(names_in((content or {}).get("targets")), conf.shown(path))
    return found


def names_in(mapping: Any) -> list[str]:
    """Packages that a node `targets` allows."""
    return [str(name) for name, value in mapping.items() if value] if isinstance(mapping, Mapping) else []


def packages(node: Any) -> set[str]:
    """Packages of all `_target_` in a tree of configs that nobody may call without being asked."""
    return {target.partition(".")[0] for target in targets_in(node) if target != REQUIRED} - set(slots.SHIPPED)


def targets_in(node: Any) -> Iterator[str]:
    """Every `_target_` in a tree of configs."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets_in(value)


def agreed(outputs: str | os.PathLike[str], conf_dirs: Sequence[str] = ()) -> tuple[set[str], set[str]]:
    """(packages, environment variables) that the user allows for runs that are read from `outputs`: now, in these folders, by
    plugins, or when they were started."""
    kept = _kept(outputs)
    return {*slots.permitted(), *in_folders(places.conf_dirs(conf_dirs)[0]), *kept["targets"]}, {
        *readable(),
        *kept["variables"],
    }


def check(cells: Iterable[Mapping[str, Any]], outputs: str | os.PathLike[str]) -> set[str]:
    """Packages of the user's own that these cells of a record call. UserError for what the user has not allowed for it."""
    cells = list(cells)
    names, variables = agreed(outputs)
    for variable in variables_in(cells):
        if variable not in variables:
            raise UserError(
                f"the record reads {variable} of your environment, which you have not allowed", allow(variable)
            )
    for target in targets_in(cells):
        if refused := slots.refusal(target, None, names):
            asked = "what a record itself allows does not count"
            raise UserError(refused[0], *([asked] if "not a declared" in refused[0] else []), *refused[1:])
    return packages(cells)


def keep(outputs: str, names: Mapping[str, str], variables: Mapping[str, str]) -> None:
    """Note what the user has allowed for runs in `outputs`, and tell once what a file allowed that nobody typed.

    names: package -> what declares it; variables: of the environment -> what reads them; "" where the user typed it.
    """
    before = _kept(outputs)
    new = {"targets": {*names} - before["targets"], "variables": {*variables} - before["variables"]}
    told = [f"{names[name]} lets configs call code of {name}" for name in sorted(new["targets"]) if names[name]]
    told += [
        f"{variables[name]} reads {name} of your environment" for name in sorted(new["variables"]) if variables[name]
    ]
    for line in told:
        logging.getLogger("kdrun").warning("kdrun: %s", line)
    if not any(new.values()):
        return
    with contextlib.suppress(OSError):  # told again next time
        path = _path(outputs)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        both = {key: sorted(before[key] | new[key]) for key in new}
        write_json(path, {"outputs": os.path.realpath(outputs), **both})


def _kept(outputs: str | os.PathLike[str]) -> dict[str, set[str]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = read_json(_path(outputs))
        return {key: set(map(str, found[key])) for key in ("targets", "variables")}
    return {"targets": set(), "variables": set()}


def _path(outputs: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256(os.path.realpath(outputs).encode()).hexdigest()
    return os.path.join(default_cache(), FOLDER, f"{digest[:32]}.json")
