"""Content hashes of the source files that a stage's numbers come from, found by following imports in the text.

Nothing is imported: a module is located below its top-level package and its `import` statements are read with `ast`.
"""

from __future__ import annotations

import ast
import hashlib
from importlib.util import find_spec
from pathlib import Path

# Below kdrun only these rooms compute; the others decide what is computed (their decisions are in the config), or
# write down what was.
ROOMS = (
    "kdrun.learning",
    "kdrun.federation",
    "kdrun.domains",
    "kdrun.objectives",
    "kdrun.networks",
    "kdrun.data",
    "kdrun.decoding",
)
ALONE = ("kdrun.auc", "kdrun.lab.ensembles")
"""Modules outside of a room that compute, too."""

CODE_LEFT_OUT = {
    "kdrun.data.fetch": "brings files; their content is hashed",
    "kdrun.data.kept": "keeps files; they are keyed by what they were made from",
    "kdrun.domains.translation.audit": "looks at sentences; changes none",
    "kdrun.domains.vision_language.audit": "looks at conversations; changes none",
    "kdrun.data.audit": "counts duplicates; changes no sample",
    "kdrun.domains.load": "asks the domain, which is in by itself",
    "kdrun.learning.fitness": "a guard: it may stop a run, never change it",
    "kdrun.learning.report": "tells how far a stage is",
    "kdrun.learning.workers": "starts processes",
}

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
    """`hashes(roots)`: module -> sha256 of its file, for every module reached; files are read once per instance."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[str, tuple[str, ...]] | None] = {}
        self._found: dict[tuple[str, ...], dict[str, str]] = {}

    def hashes(self, roots: list[str]) -> dict[str, str]:
        key = tuple(roots)
        if key not in self._found:
            self._found[key] = self._hashes(roots)
        return self._found[key]

    def _hashes(self, roots: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        waiting = [module for root in roots if (module := self._module_of(root))]
        while waiting:
            module = waiting.pop()
            if module in found or not self._counts(module):
                continue
            known = self._load(module)
            if known is not None:
                found[module] = known[0]
                waiting.extend(known[1])
        return dict(sorted(found.items()))

    @staticmethod
    def _counts(module: str) -> bool:
        top = module.partition(".")[0]
        if top == "kdrun":
            inside = module.startswith(tuple(f"{room}." for room in ROOMS)) and module not in CODE_LEFT_OUT
            return inside or module in ALONE
        return top not in LIBRARY_PACKAGES

    def _module_of(self, target: str) -> str | None:
        """The longest prefix of a dotted target that is a module file: `mylab.nets.Mine` -> `mylab.nets`."""
        names = target.split(".")
        for end in range(len(names), 0, -1):
            if locate(".".join(names[:end])) is not None:
                return ".".join(names[:end])
        return None

    def _load(self, module: str) -> tuple[str, tuple[str, ...]] | None:
        if module not in self._read:
            path = locate(module)
            if path is None:
                self._read[module] = None
            else:
                content = path.read_bytes()
                imports = imported(content, module, is_package=path.name == "__init__.py")
                top = module.partition(".")[0]
                inside = tuple(name for name in imports if name.partition(".")[0] == top)
                self._read[module] = (hashlib.sha256(content).hexdigest(), inside)
        return self._read[module]


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
