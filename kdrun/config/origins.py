"""Where a value of the composed tree came from: the words that were typed, or a file and its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdrun.config.groups import Groups, Option
from kdrun.config.option_file import defaults_of, line_of, own_keys, package_of
from kdrun.config.presets import PRESETS, mistakes
from kdrun.problems import listed

SETTINGS = ("objective", "trainer", "trainer/optimizer", "teacher")
"""Groups whose options a strategy may not use. The others say who takes part, and in what, which all strategies use."""


@dataclass
class Origins:
    """typed: dotted key -> the override as typed. choices: Hydra's `group@package` -> option. groups: what exists."""

    typed: dict[str, str] = field(default_factory=dict)
    choices: Mapping[str, str | Sequence[str] | None] = field(default_factory=dict)
    groups: Groups = field(default_factory=dict)
    main: Option | None = None

    def __call__(self, path: str) -> str:
        """`trainer.epochs=abc` if it was typed, else `trainer.epochs (conf/trainer/quick.yaml, line 4)`."""
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            text = self.typed.get(".".join(parts[:length]))
            if text is not None:
                return text if length == len(parts) else f"{path} (from {text})"
        below = self.typed_below(path)
        if below:
            return self.typed[below[0]]
        place = self.place(path)
        return f"{path} ({place})" if place else path

    def typed_below(self, path: str) -> list[str]:
        return [key for key in self.typed if key == path or key.startswith(path + ".")]

    def files(self) -> list[tuple[str, Option]]:
        """(package, option) of every file in the composition, later ones last."""
        found = [("", self.main)] if self.main else []
        for choice, names in self.choices.items():
            group, _, package = choice.partition("@")
            for name in [names] if isinstance(names, str) else names or []:
                option = self.groups.get(group, {}).get(name)
                if option is not None:
                    package = package_of(option.file, package or group.replace("/", "."))
                    found.append((f"{package}.{option.part}".strip("."), option))
        # As in config.yaml: a family is over the groups, an experiment over all.
        return sorted(
            found, key=lambda pair: ("model", "experiment").index(pair[1].group) if pair[1].group in PRESETS else -1
        )

    def keys_of(self, group: str, name: str) -> list[str]:
        """Dotted keys that the file of an option sets; where it is composed of other groups, the part that it fills."""
        group, _, package = group.partition("@")
        part = package or group.replace("/", ".")
        option = self.groups.get(group, {}).get(name)
        part = f"{part}.{option.part}" if option is not None and option.part else part
        own = {} if option is None or defaults_of(option.file) else own_keys(option.file)
        return [f"{part}.{key}" for key in own] or [part]

    def of_own_experiments(self) -> dict[str, str]:
        """Dotted key -> `trainer.epochs=3 (mine/experiment/x.yaml, line 4)` of what experiments set, or choose, that do not
        come with kdrun."""
        found: dict[str, str] = {}
        for _, option in self.files():
            if option.group != "experiment" or option.dir.origin == "kdrun":
                continue
            for key, name, line in defaults_of(option.file) or ():
                group = key.split()[-1].lstrip("/")
                if group.partition("@")[0] in SETTINGS:
                    said = f"{group}={name} ({option.shown}, line {line})"
                    found |= dict.fromkeys(self.keys_of(group, name), said)
            for key, value in own_keys(option.file).items():
                found[key] = f"{key}={value} ({option.shown}, line {line_of(option.file, '', key)})"
        return found

    def place(self, path: str) -> str | None:
        """File and line that set `path`; where it is set twice, the last one."""
        found = None
        for package, option in self.files():
            line = line_of(option.file, package, path)
            if line is not None:
                found = f"{option.shown}, line {line}"
        return found

    def text(self, wanted: str) -> str | None:
        """File and line that contain `wanted` (an interpolation)."""
        for _, option in reversed(self.files()):
            with open(option.file, encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file, 1):
                    if wanted in line:
                        return f"{option.shown}, line {number}"
        return None

    def home(self, path: str) -> str:
        """A sentence on the group or file a suggested key belongs to."""
        top = path.partition(".")[0]
        options = self.groups.get(top)
        if options is None:
            return ""
        if path == top:
            folders = sorted({option.shown.rpartition("/")[0] for option in options.values()})
            return f"{top} is a group ({', '.join(folders)}): {listed(options)}"
        chosen = self.choices.get(top)
        option = options.get(chosen) if isinstance(chosen, str) else None
        return f"{top} comes from {option.shown}" if option else ""

    def presets(self, group: str) -> list[list[str]]:
        """What is wrong with the preset chosen from `group`, whose values landed below the group's name."""
        chosen = self.choices.get(group)
        option = self.groups.get(group, {}).get(chosen) if isinstance(chosen, str) else None
        return mistakes(option, self.groups) if option else [[f"{group}: no such key"]]
