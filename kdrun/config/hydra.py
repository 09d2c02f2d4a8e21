"""Composition of groups by Hydra, and its errors in our words. A move to another Hydra touches this file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kdrun.config.groups import LEARNERS, SEVERAL, ConfDir, Groups, near, stamp
from kdrun.config.option_file import defaults_of
from kdrun.config.presets import PRESETS, mistakes
from kdrun.problems import Problems, closest, listed


@dataclass(frozen=True)
class Composed:
    """Not to be changed, since it is kept. tree: plain, interpolations kept. choices: Hydra's `group@package` -> option (a list where several)."""

    tree: dict[str, Any]
    choices: dict[str, Any]

    @property
    def options(self) -> dict[str, str]:
        return {
            group: "+".join(option) if isinstance(option, list) else str(option)
            for group, option in self.choices.items()
            if option is not None
        }


def compose_groups(
    overrides: Sequence[str], dirs: Sequence[ConfDir], table: Groups, problems: Problems
) -> Composed | None:
    """Compose config.yaml with these group choices; None, with the problem added, where that fails."""
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _compose(tuple(overrides), tuple((conf.origin, conf.path) for conf in dirs), stamp(dirs))
    except yaml.YAMLError as error:
        problems.add(*_yaml(error))
    except (HydraException, OmegaConfBaseException) as error:
        for word in overrides:
            group, _, name = word.partition("=")
            option = table.get(group, {}).get(name) if group in PRESETS else None
            for lines in mistakes(option, table) if option else ():
                problems.add(*lines)
        if not problems.found:
            problems.add(*_explained(error, overrides, dirs, table))
    return None


# A sweep over values composes its groups once: 0.2 s per job otherwise.
@lru_cache(maxsize=64)
def _compose(overrides: tuple[str, ...], dirs: tuple[tuple[str, str], ...], stamp: Any) -> Composed:
    """Hydra's composition without its own `hydra:` node, which we never read: half the time, and no global state.

    The parts are internal to Hydra 1.3; a test compares the result with its public `compose`.
    """
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's notices about its own next version are not for our users
        loader = _loader(dirs, stamp)
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        found = create_defaults_list(loader.repository, "config", parsed, prepend_hydra=False, skip_missing=False)
        config = loader._compose_config_from_defaults_list(found.defaults, loader.repository)
    tree: Any = OmegaConf.to_container(config, resolve=False)
    choices: dict[str, Any] = dict(found.overrides.known_choices)
    if SEVERAL not in choices:  # Hydra does not keep the choice of a list
        top, paths = f"{SEVERAL}/", [(str(part.parent), str(part.config_path)) for part in found.defaults]
        choices[SEVERAL] = [p.removeprefix(top) for parent, p in paths if p.startswith(top) > parent.startswith(top)]
    return Composed(tree, choices)


@lru_cache(maxsize=4)
def _loader(dirs: tuple[tuple[str, str], ...], stamp: Any) -> Any:
    """Hydra's loader of these folders. It reads each file once, whatever is composed of it."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra.core.plugins import Plugins

    Plugins.instance()  # registers the readers of `file://` and `pkg://`
    version.setbase("1.3")
    path = ConfigSearchPathImpl()
    for origin, folder in dirs:
        path.append("main" if origin == "kdrun" else origin, f"file://{folder}")
    path.append("schema", "structured://")  # Hydra expects it at the end
    loader = ConfigLoaderImpl(path)
    loader.repository = _repository(loader.repository)
    return loader


def _repository(files: Any) -> Any:
    """Hydra's repository of config files, which also answers `student/NAME` from `network/NAME` where no file does."""
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.plugins.config_source import ConfigResult
    from omegaconf import OmegaConf

    class Repository(CachingConfigRepository):
        def load_config(self, config_path: str) -> ConfigResult | None:
            config = super().load_config(config_path)
            group, _, name = config_path.partition("/")
            if config is None and group in LEARNERS and self.delegate.config_exists(f"network/{name}"):
                config = ConfigResult(
                    "kdrun", "", OmegaConf.create({"name": name.rpartition("/")[2]}), {"package": None}
                )
                entries = OmegaConf.create([{"/network@network": name}, "_self_"])
                delegate: Any = self.delegate
                config.defaults_list = delegate._create_defaults_list(config_path, entries)
                self.cache[f"config_path={config_path}"] = config
            return config

        def group_exists(self, config_path: str) -> bool:
            return config_path in LEARNERS or super().group_exists(config_path)

        def config_exists(self, config_path: str) -> bool:
            return self.load_config(config_path) is not None

    return Repository(files)


def _yaml(error: Any) -> list[str]:
    mark = getattr(error, "problem_mark", None)
    place = f"{near(mark.name)}, line {mark.line + 1}" if mark else "a config file"
    return [f"{place}: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"]


def _explained(error: BaseException, overrides: Sequence[str], dirs: Sequence[ConfDir], table: Groups) -> list[str]:
    """Hydra's message, shortened; for the known ones what to type instead."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    found = re.search(r"Could not override '([^']+)'", text)
    if found:
        key = found[1]
        group = key.partition("@")[0]
        known = _choices(dirs) or list(table)
        used = sorted((name for name in known if name.partition("@")[0] == group), key=len)
        if used:
            words = dict(word.partition("=")[::2] for word in overrides)
            return [f"{key}: say whose it is: " + ", ".join(f"{name}={words.get(key, 'NAME')}" for name in used[:3])]
        return [f"{key}: this group is not used here{closest(key, known)}; groups: {listed(known)}"]
    found = re.search(r"Could not load '([^']+)'|In '([^']+)': Could not find '([^']+)'", text)
    if found:
        group, _, name = (found[3] or found[1]).rpartition("/")
        while group not in table and "/" in group:  # an option in a subfolder
            group, _, last = group.rpartition("/")
            name = f"{last}/{name}"
        options = table.get(group, {})
        file = _chosen_in(group, name, overrides, table) or found[2]
        return [
            f"{file + ': ' if file else ''}no {group or 'config'} {name!r}{closest(name, options)}; all: {listed(options)}"
        ]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [lines[0] if lines else type(error).__name__, *lines[1:3]]


def _chosen_in(group: str, name: str, overrides: Sequence[str], table: Groups) -> str:
    """File and line of the chosen preset that asks for this option; Hydra says `config` whoever asked."""
    for word in overrides:
        preset, _, chosen = word.partition("=")
        option = table.get(preset, {}).get(chosen) if preset in PRESETS else None
        for key, value, line in (defaults_of(option.file) or ()) if option else ():
            if value == name and key.split()[-1].lstrip("/").partition("@")[0] == group:
                return f"{option.shown}, line {line}" if option else ""
    return ""


def _choices(dirs: Sequence[ConfDir]) -> list[str]:
    try:
        return list(_compose((), tuple((conf.origin, conf.path) for conf in dirs), stamp(dirs)).choices)
    except Exception:  # the base itself is broken; then there is nothing to suggest from
        return []
