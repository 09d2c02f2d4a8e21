"""Composition of groups by Hydra, and its errors in our words. A move to another Hydra touches this file."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.config.groups import ConfDir, Groups
from kdrun.problems import Problems, closest, listed


@dataclass(frozen=True)
class Composed:
    """tree: plain, interpolations kept. choices: Hydra's `group@package` -> option (a list where several)."""

    tree: dict[str, Any]
    choices: dict[str, Any]

    @property
    def options(self) -> dict[str, str]:
        return {group: str(option) for group, option in self.choices.items() if option is not None}


def compose_groups(
    overrides: Sequence[str], dirs: Sequence[ConfDir], table: Groups, problems: Problems
) -> Composed | None:
    """Compose config.yaml with these group choices; None, with the problem added, where that fails."""
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _compose(overrides, dirs)
    except yaml.YAMLError as error:
        problems.add(*_yaml(error))
    except (HydraException, OmegaConfBaseException) as error:
        problems.add(*_explained(error, overrides, dirs, table))
    return None


def _compose(overrides: Sequence[str], dirs: Sequence[ConfDir]) -> Composed:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's notices about its own next version are not for our users
        from hydra import compose, version
        from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
        from hydra._internal.hydra import Hydra
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.plugins import Plugins
        from omegaconf import OmegaConf

        # What initialize_config_dir does, but with an order of folders of our own: it can only append to its first.
        Plugins.instance()  # registers the readers of `file://` and `pkg://`
        path = ConfigSearchPathImpl()
        path.append("hydra", "pkg://hydra.conf")
        for conf in dirs:
            path.append("main" if conf.origin == "kdrun" else conf.origin, f"file://{conf.path}")
        path.append("schema", "structured://")
        before = GlobalHydra.instance().hydra
        version.setbase("1.3")
        GlobalHydra.instance().clear()
        Hydra.create_main_hydra2(task_name="kdrun", config_search_path=path)
        try:
            config = compose("config", list(overrides), return_hydra_config=True)
        finally:
            GlobalHydra.instance().hydra = before
    choices = {
        key: value
        for key, value in OmegaConf.to_container(config.hydra.runtime.choices).items()  # type: ignore[union-attr]
        if not key.startswith("hydra/")
    }
    del config._content["hydra"]  # type: ignore[union-attr]
    return Composed(OmegaConf.to_container(config, resolve=False), choices)  # type: ignore[arg-type]


def _yaml(error: Any) -> list[str]:
    mark = getattr(error, "problem_mark", None)
    place = f"{os.path.relpath(mark.name)}, line {mark.line + 1}" if mark and os.path.isabs(mark.name) else ""
    if mark and not place:
        place = f"{mark.name}, line {mark.line + 1}"
    return [f"{place or 'a config file'}: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"]


def _explained(error: BaseException, overrides: Sequence[str], dirs: Sequence[ConfDir], table: Groups) -> list[str]:
    """Hydra's message, shortened; for the known ones what to type instead."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    found = re.search(r"Could not override '([^']+)'", text)
    if found:
        key = found[1]
        group = key.partition("@")[0]
        used = [name for name in _choices(dirs) if name.partition("@")[0] == group]
        known = [name for name in _choices(dirs)] or list(table)
        if used:
            return [f"{key}: choose it where it is used: " + ", ".join(f"{name}=NAME" for name in used)]
        return [f"{key}: this group is not used here{closest(key, known)}; groups: {listed(known)}"]
    found = re.search(r"Could not load '([^']+)'|In '([^']+)': Could not find '([^']+)'", text)
    if found:
        group, _, name = (found[3] or found[1]).rpartition("/")
        options = table.get(group, {})
        file = f"{found[2]}: " if found[2] else ""
        return [f"{file}no {group or 'config'} {name!r}{closest(name, options)}; all: {listed(options)}"]
    found = re.search(r"([\w@./]+) appears more than once in the final defaults list", text)
    if found:
        group = found[1].partition("@")[0]
        return [f"{found[1]} is chosen twice", *_presets(group, overrides, table)]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [lines[0] if lines else type(error).__name__, *lines[1:3]]


def _presets(group: str, overrides: Sequence[str], table: Groups) -> list[str]:
    """P06: the line of a preset that has to be `override /group: name`."""
    for word in overrides:
        name, _, option = word.partition("=")
        file = table.get(name, {}).get(option)
        if file is None:
            continue
        with open(file.file, encoding="utf-8") as text:
            for number, line in enumerate(text, 1):
                match = re.match(rf"(\s*-\s*)/?{re.escape(group)}(@\S+)?\s*:\s*(\S+)", line)
                if match:
                    return [f"{file.shown}, line {number}: write `- override /{group}{match[2] or ''}: {match[3]}`"]
    return []


def _choices(dirs: Sequence[ConfDir]) -> list[str]:
    try:
        return list(_compose([], dirs).choices)
    except Exception:  # the base itself is broken; then there is nothing to suggest from
        return []
