"""What computes a stage, by its version: a number in each part of kdrun, the content of source files of everybody else.

A room or file of kdrun whose results enter a stage says `SEMANTICS = 1`, and raises the number when the same stage may give other
results than before; any other edit (a comment, a name, a file that moves) leaves stored stages where they are. `scripts/golden.py` finds a
change of results whose number was not raised. `USES` of a room names the rooms that it stands on. A file counts with the rooms
that it lies in, so a part without a number of its own has theirs.

Modules of a user have no such number. Their files are hashed, with what they import below the same package.

Nothing is imported: a module is located below its top-level package, and its text is read.
"""

from __future__ import annotations

import ast
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from kdrun.moved import current, original

OURS = "kdrun"
_NUMBER = re.compile(r"^SEMANTICS = (\d+)$", re.M)
_USES = re.compile(r"^USES = (\(.*?\))$", re.M | re.S)

# Taken by version, not by content: their sources are the release's.
LIBRARY_PACKAGES = (
    "torch",
    "torchmetrics",
    "lightning",
    "transformers",
    "timm",
    "numpy",
    "sklearn",
    "PIL",
    "sentencepiece",
    "sacrebleu",
)


class Sources:
    """`versions(roots)`: what the code of a stage is known by; files are read once per instance.

    package: the folder of kdrun (default: the one that is installed)."""

    def __init__(self, package: Path | None = None) -> None:
        self._package = Path(__file__).parent.parent if package is None else package
        self._read: dict[str, tuple[str, tuple[str, ...]] | None] = {}
        self._said: dict[str, tuple[int | None, tuple[str, ...]]] = {}
        self._found: dict[tuple[str, ...], dict[str, int | str]] = {}

    def versions(self, roots: list[str]) -> dict[str, int | str]:
        """Part of kdrun -> its number, module of a user -> sha256 of its file. roots: dotted names of modules, or of what is in
        them."""
        key = tuple(roots)
        if key not in self._found:
            self._found[key] = self._collected(roots)
        return self._found[key]

    def _collected(self, roots: list[str]) -> dict[str, int | str]:
        found: dict[str, int | str] = {}
        waiting, seen = list(roots), set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name.partition(".")[0] == OURS:
                for part in parts_of(current(name)):
                    number, uses = self._semantics(part)
                    waiting += uses
                    if number is not None:
                        found[part_name(part)] = number
            elif (module := self._module_of(name)) and (known := self._load(module)):
                found[module] = known[0]
                waiting += known[1]
        return dict(sorted(found.items()))

    def _semantics(self, part: str) -> tuple[int | None, tuple[str, ...]]:
        """The number that a room or file of kdrun says, and the rooms it stands on."""
        if part not in self._said:
            base = self._package.joinpath(*part.split(".")[1:])
            file = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
            self._said[part] = (None, ()) if file is None else semantics(file.read_text(encoding="utf-8"))
        return self._said[part]

    def _module_of(self, target: str) -> str | None:
        """The longest prefix of a dotted target that is a module file: `mylab.nets.Mine` -> `mylab.nets`."""
        if target.partition(".")[0] in LIBRARY_PACKAGES:
            return None
        names = target.split(".")
        for end in range(len(names), 0, -1):
            if locate(".".join(names[:end])) is not None:
                return ".".join(names[:end])
        return None

    def _load(self, module: str) -> tuple[str, tuple[str, ...]] | None:
        """sha256 of the file of a user's module, and what it imports of the same package and of kdrun."""
        if module not in self._read:
            path = locate(module)
            if path is None:
                self._read[module] = None
            else:
                content = path.read_bytes()
                imports = imported(content, module, is_package=path.name == "__init__.py")
                tops = (module.partition(".")[0], OURS)
                inside = tuple(name for name in imports if name.partition(".")[0] in tops)
                self._read[module] = (hashlib.sha256(content).hexdigest(), inside)
        return self._read[module]


def parts_of(name: str) -> list[str]:
    """Rooms and files on the way to a dotted name: `kdrun.objectives`, `kdrun.objectives.kd` ..."""
    names = name.split(".")
    return [".".join(names[:end]) for end in range(2, len(names) + 1)]


def part_name(module: str) -> str:
    """What a room or file of kdrun is called in a fingerprint: by its first name, without the package."""
    return original(module.removesuffix(".__init__")).removeprefix(f"{OURS}.")


def semantics(text: str) -> tuple[int | None, tuple[str, ...]]:
    """(SEMANTICS, USES) that the text of a module says."""
    number, uses = _NUMBER.search(text), _USES.search(text)
    return number and int(number[1]), tuple(ast.literal_eval(uses[1])) if uses else ()


def locate(module: str) -> Path | None:
    """The source file of a module, without importing its packages; None when it has none."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def imported(content: bytes, module: str, is_package: bool) -> list[str]:
    """Names of modules that the source may import, relative imports resolved; `from a import b` gives `a` and `a.b`."""
    package = module if is_package else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")
                parent = parent[: len(parent) - node.level + 1]
                base = ".".join([*parent, base]) if base else ".".join(parent)
            names.append(base)
            names.extend(f"{base}.{alias.name}" for alias in node.names)
    return names
