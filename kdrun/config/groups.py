"""Where configs live: the shipped folder, `--conf` folders and plugins. Reads folder names only, and imports nothing
heavy (not even pathlib or yaml), because `kdrun ls` and shell completion stand on it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache

from kdrun.plugins import CONFIGS, entry_points
from kdrun.problems import UserError

# The order in which groups are shown; others follow in alphabetical order.
ORDER = (
    "model",
    "teacher",
    "student",
    "strategy",
    "objective",
    "reward",
    "data",
    "trainer",
    "hardware",
    "tracker",
    "experiment",
    "network",
)
LEARNERS = ("teacher", "student")
"""Groups that offer every option of the group `network` beside the files of their own."""
SEVERAL = "objective"
"""The one group of which a job may choose several options, since an objective is a sum: `objective=[kd,hint]`."""
TABLES = "table"
"""The folder of `kdrun table`: its files describe many jobs, so none of them is part of a job's config."""


class ConfDir:
    """One folder of groups. origin: "kdrun", "--conf" or "plugin NAME"; package: what a plugin allows as a target."""

    def __init__(self, path: str, origin: str, package: str | None = None) -> None:
        self.path, self.origin, self.package = path, origin, package

    def shown(self, file: str = "") -> str:
        """`file` as a person would name it: below the folder for shipped files, from here for their own."""
        if self.origin == "kdrun":
            return "conf/" + os.path.relpath(file or self.path, self.path).replace(os.sep, "/")
        return near(file or self.path)


def near(path: str) -> str:
    """Relative to the current folder where it lies below it, else as it is."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def shipped() -> str:
    """The folder that comes with kdrun: inside the installed package, or beside it in a clone."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    inside = os.path.join(package, "conf")
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(package), "conf")


def conf_dirs(given: Sequence[str] = ()) -> tuple[list[ConfDir], list[str]]:
    """All folders, first wins, and what to say about plugins that are broken.

    `--conf` comes before the shipped folder, so that a user can replace a shipped option on purpose; a plugin comes
    after it, so that installing one never changes what a shipped name means.
    """
    own = shipped()
    if not os.path.isfile(os.path.join(own, "config.yaml")):
        raise UserError(f"the folder of shipped configs is missing: {own}", "install kdrun again")
    dirs = []
    for path in given:
        if not os.path.isdir(path):
            raise UserError(f"--conf {path}: no such folder")
        if not os.path.samefile(path, own):
            dirs.append(ConfDir(os.path.abspath(path), "--conf"))
    dirs.append(ConfDir(own, "kdrun"))
    broken = []
    for name, value in entry_points(CONFIGS):
        try:
            dirs.append(ConfDir(_package_dir(value), f"plugin {name}", value.partition(".")[0]))
        except Exception as error:  # whatever is wrong with somebody else's package must not stop this run
            broken.append(f"plugin {name} ({value}) is left out: {error}")
    return dirs, broken


def _package_dir(package: str) -> str:
    """The folder of `package`, found without running its code."""
    from importlib.util import find_spec

    top, *rest = package.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package {top!r} is installed")
    for location in spec.submodule_search_locations:
        folder = os.path.join(location, *rest)
        if os.path.isdir(folder):
            return folder
    raise ImportError(f"package {top!r} has no folder {'/'.join(rest)!r}")


class Option:
    """One choice of a group, `folder/name` where it lies in a subfolder of it. `dir` is the ConfDir it came from.

    part: the key of the group's node that the file fills; "" for the whole node."""

    def __init__(self, name: str, file: str, dir: ConfDir, part: str = "") -> None:
        self.name, self.file, self.dir, self.part = name, file, dir, part

    @property
    def group(self) -> str:
        path = os.path.splitext(os.path.relpath(self.file, self.dir.path))[0].replace(os.sep, "/")
        return path.removesuffix(f"/{self.name}")

    @property
    def shown(self) -> str:
        return self.dir.shown(self.file)

    @property
    def summary(self) -> str:
        """The first line of comment, without a `@package` line."""
        with open(self.file, encoding="utf-8", errors="replace") as file:
            for line in file:
                text = line.strip().lstrip("#").strip()
                if not line.startswith("#"):
                    if line.strip():
                        return ""
                elif text and not text.startswith("@package"):
                    return text
        return ""


Groups = dict[str, dict[str, Option]]


def main_option(dirs: Sequence[ConfDir]) -> Option:
    """config.yaml, from which every job is composed: of the first folder that has one."""
    files = [(os.path.join(conf.path, "config.yaml"), conf) for conf in dirs]
    return next(Option("config", file, conf) for file, conf in files if os.path.isfile(file))


def groups(dirs: Sequence[ConfDir]) -> Groups:
    """group -> option -> Option, in the order of showing: all that a job can be composed of."""
    table = {group: options for group, options in _folders(dirs).items() if group.partition("/")[0] != TABLES}
    networks = {name: Option(name, o.file, o.dir, part="network") for name, o in table.get("network", {}).items()}
    for learner in LEARNERS:
        table[learner] = dict(sorted({**networks, **table.get(learner, {})}.items()))
    return dict(sorted(table.items(), key=lambda item: _place(item[0])))


def tables(dirs: Sequence[ConfDir]) -> dict[str, Option]:
    """name -> file of every table."""
    return _folders(dirs).get(TABLES, {})


Stamp = tuple[tuple[str, int], ...]


def stamp(dirs: Sequence[ConfDir]) -> Stamp:
    """Name and time of every config file: what was read before an edit is not used after it."""
    files = [path for conf in dirs for path in _files(conf.path)]
    return tuple((path, os.stat(path).st_mtime_ns) for path in files)


def _files(folder: str) -> list[str]:
    return [
        os.path.join(place, file)
        for place, _, files in os.walk(folder)
        for file in files
        if file.endswith((".yaml", ".yml"))
    ]


ENTRY = re.compile(r"^\s*-\s+(?:optional\s+|override\s+)*([\w./-]+)(?:@[\w.]+)?\s*:", re.M)
"""`- optimizer: sgd`, `- /trainer/optimizer@_here_: sgd` of a defaults list."""


def _named(dirs: Sequence[ConfDir], stamp: Stamp) -> set[str]:
    """Subfolders that a defaults list has as a group: by the path from the folder of its file, or, with a slash before it, by
    the whole path in a file of the same folder of configs or of the one above the subfolder."""
    places = {conf.path: conf for conf in dirs}
    named = set()
    for file, _ in stamp:
        root = next(path for path in places if file.startswith(os.path.join(path, "")))
        above = os.path.relpath(os.path.dirname(file), root).replace(os.sep, "/").removeprefix(".")
        with open(file, encoding="utf-8", errors="replace") as text:
            for name in ENTRY.findall(text.read()):
                whole = name.lstrip("/")
                if not name.startswith("/"):
                    named.add(f"{above}/{name}".lstrip("/"))
                if whole.rpartition("/")[0] == above or (name.startswith("/") and os.path.isdir(f"{root}/{whole}")):
                    named.add(whole)
    return named


def _folders(dirs: Sequence[ConfDir]) -> Groups:
    """All groups with their files. Names that begin with `_` are building blocks, not options.

    A subfolder that a defaults list names (`trainer/optimizer`) is a group of its own; another one only sorts the options of
    the group it lies in: `experiment=cifar100/vanilla`.
    """
    return _sorted(tuple((conf.path, conf.origin, conf.package) for conf in dirs), stamp(dirs))


@lru_cache(maxsize=8)
def _sorted(places: tuple[tuple[str, str, str | None], ...], stamp: Stamp) -> Groups:
    dirs = [ConfDir(*place) for place in places]
    named = _named(dirs, stamp)
    found: Groups = {}
    for conf in dirs:
        for folder, _, files in os.walk(conf.path):
            group = os.path.relpath(folder, conf.path).replace(os.sep, "/")
            if group == "." or any(part.startswith((".", "_")) for part in group.split("/")):
                continue
            prefix = ""
            while "/" in group and group not in named:
                group, _, last = group.rpartition("/")
                prefix = f"{last}/{prefix}"
            for file in sorted(files):
                name, extension = os.path.splitext(file)
                if extension in (".yaml", ".yml") and not name.startswith(("_", ".")):
                    options = found.setdefault(group, {})
                    options.setdefault(prefix + name, Option(prefix + name, os.path.join(folder, file), conf))
    return {group: dict(sorted(options.items())) for group, options in found.items()}


def _place(group: str) -> tuple[int, str]:
    top = group.partition("/")[0]
    return ORDER.index(top) if top in ORDER else len(ORDER), group
