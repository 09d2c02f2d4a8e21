"""The layers of docs/architecture.md hold for every import: at the top of a file, inside functions, and for types."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import kdrun

PACKAGE = Path(kdrun.__file__).parent
LAYERS = (
    ("__main__",),
    ("kdrun", "cli"),
    ("verbs",),
    ("api",),
    ("report",),
    ("plots",),
    ("sweep", "tables"),
    ("run",),
    ("job",),
    ("processes",),
    ("strategies",),
    ("diagnostics",),
    ("hardware",),
    ("lab",),
    ("federation",),
    ("learning",),
    ("objectives",),
    ("domains",),
    ("data", "decoding"),
    ("networks",),
    ("ledger", "accounting"),
    ("tracking",),
    ("config",),
    ("present",),
    ("leaves",),
)
"""Rooms from the door down: each may import those below it, none beside it."""
EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(room, room above it) -> why it is still imported."""


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything in the package."""
    return {
        ".".join(("kdrun", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


@cache
def arrows() -> dict[tuple[str, str], int]:
    """(module, module it imports) -> line of the first such import."""
    found: dict[tuple[str, str], int] = {}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno}: a relative import"
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in modules() else node.module for name in inside]
            for name in names:
                if name in modules() and name != module:
                    found.setdefault((module, name), node.lineno)
    return found


def room(module: str) -> str:
    """The room of a module; `leaves` where it is in none."""
    parts = module.split(".")
    if len(parts) == 1:
        return module
    return parts[1] if any(parts[1] in layer for layer in LAYERS) else "leaves"


def test_no_arrow_goes_up_or_to_the_room_beside():
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong, used = [], set()
    for (module, imported), line in sorted(arrows().items()):
        pair = room(module), room(imported)
        if pair[0] != pair[1] and rank[pair[0]] >= rank[pair[1]]:
            used.add(pair)
            wrong += [] if pair in EXCEPTIONS else [f"{module}:{line} imports {imported}"]
    assert not wrong, "\n".join(wrong)
    assert used == set(EXCEPTIONS), "an exception that is no longer needed"


def test_verbs_are_for_the_shell():
    wrong = [f"{a}:{line} imports {b}" for (a, b), line in arrows().items() if room(b) == "verbs" != room(a) != "kdrun"]
    assert {line.partition(":")[0] for line in wrong} <= {"kdrun.cli"}, "\n".join(wrong)


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == {name for layer in LAYERS for name in layer} - {
        "__main__",
        "kdrun",
        "cli",
        "api",
        "run",
        "leaves",
    }


def test_no_modules_import_each_other():
    found = [sorted(circle) for circle in circles() if len(circle) > 1]
    assert not found, "\n\n".join("\n".join(circle) for circle in found)


def circles() -> list[list[str]]:
    """Strongly connected components of the modules (Tarjan 1972)."""
    targets = defaultdict(set)
    for module, imported in arrows():
        targets[module].add(imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in targets[module]:
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            place = stack.index(module)
            found.append(stack[place:])
            del stack[place:]

    for module in list(targets):
        if module not in index:
            visit(module)
    return found
