"""The signature of a dotted name, read from source without importing it: torch takes seconds, a typo must not."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from kdrun.moved import current

MOST_HOPS = 12
"""How many re-exports are followed before giving up."""


@dataclass(frozen=True)
class Parameter:
    """One parameter. annotation: its source as an ast node, or None; default: source text, or None where required."""

    name: str
    kind: str  # "positional" (may also be given by keyword) or "keyword"
    annotation: ast.expr | None = None
    default: str | None = None

    @property
    def required(self) -> bool:
        return self.default is None


@dataclass(frozen=True)
class Signature:
    """What a callable accepts by name. has_kwargs: it takes any name, so nothing can be called unknown."""

    target: str
    parameters: dict[str, Parameter] = field(default_factory=dict)
    has_kwargs: bool = False
    kind: str = "function"  # or "class"


class Missing(LookupError):
    """The name is certainly not there. `known`: names that are, in the module where the search ended."""

    def __init__(self, message: str, word: str, known: list[str]) -> None:
        super().__init__(message)
        self.word, self.known = word, known


@dataclass
class Module:
    """A module's source, parsed. `open`: names may exist that the source does not show."""

    name: str
    file: str | None
    package: bool
    body: list[ast.stmt]
    open: bool
    stars: list[str]
    names: dict[str, ast.stmt]


_parsed: dict[tuple[str, str, int], Module] = {}  # (module, file, mtime in ns) -> its source, parsed: never stale


def see_current_folder(target: str) -> None:
    """If the package of `target` lies in the folder kdrun was called from, and nowhere else, that folder is searched, too.

    Only for a package that the user has allowed: a folder that somebody sent must not lend its modules to anything else.
    """
    here, top = os.getcwd(), target.partition(".")[0]
    if here in sys.path or "" in sys.path or module_spec(top) is not None:
        return
    if os.path.isdir(os.path.join(here, top)) or os.path.isfile(os.path.join(here, f"{top}.py")):
        sys.path.append(here)


LASTING = ("kdrun.", "torch.")
"""Packages whose modules stay as they are while kdrun runs: a composition asks hundreds of times for their signatures."""


def module_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Like importlib.util.find_spec, but parents are not imported."""
    return _lasting_spec(name) if name.startswith(LASTING) else _module_spec(name)


def _module_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        return None
    path = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = f"{path}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(path, list(spec.submodule_search_locations))
    return spec


_lasting_spec = lru_cache(maxsize=None)(_module_spec)


def signature_of(target: str) -> Signature | None:
    """The signature of `target`, or None where source cannot tell. Raises Missing where it is certainly absent."""
    target = current(target)
    return _lasting_signature(target) if target.startswith(LASTING) else _signature(target)


def _signature(target: str) -> Signature | None:
    see_current_folder(target)
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        spec = module_spec(name)
        if spec is None:
            continue
        rest = parts[length:]
        if not rest:
            raise Missing(f"{target} is a module, not something that can be called", "", callables(name))
        return _in_module(name, rest, target, 0)
    raise Missing(f"no package {parts[0]!r} can be found from here", parts[0], [])


_lasting_signature = lru_cache(maxsize=None)(_signature)


def definition(target: str, follow: bool) -> tuple[str, list[str], ast.stmt | None]:
    """(module, names below it, statement that binds the first of these names), from source; None where it shows no such name.

    follow: an import of the name is followed to where it is defined; module and names are then those there.
    """
    parts = current(target).split(".")
    length = next((n for n in range(len(parts), 0, -1) if module_spec(".".join(parts[:n])) is not None), 0)
    module, rest = ".".join(parts[:length]), parts[length:]
    for _ in range(MOST_HOPS):
        found = _read(module) if module and rest else None
        names = found.names if found else {}
        node = names.get(rest[0]) if rest else None
        if not follow or found is None or not isinstance(node, ast.ImportFrom):
            break
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == rest[0])
        module, rest = _absolute(found, node), [original, *rest[1:]]
        if module_spec(f"{module}.{original}") is not None:
            break
    return module, rest, node


def constant(module: str, name: str, default: Any) -> Any:
    """A literal that a module's source binds to a name."""
    found = _read(module)
    node = found.names.get(name) if found else None
    return ast.literal_eval(node.value) if isinstance(node, ast.Assign) else default


def callables(name: str) -> list[str]:
    """Public classes and functions that the module defines or brings in: what a suggestion chooses from."""
    module = _read(name)
    if module is None:
        return []
    return [
        key
        for key, node in module.names.items()
        if not key.startswith("_") and isinstance(node, ast.ClassDef | ast.FunctionDef | ast.ImportFrom)
    ]


def _read(name: str) -> Module | None:
    """None: no source (an extension module, a zip), so nothing can be said."""
    spec = module_spec(name)
    if spec is None:
        return None
    if spec.origin is None and spec.submodule_search_locations is not None:
        return Module(name, None, True, [], False, [], {})  # a folder without __init__.py
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        stamp = (name, spec.origin, os.stat(spec.origin).st_mtime_ns)
        if stamp in _parsed:
            return _parsed[stamp]
        with open(spec.origin, "rb") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):
        return None
    module = _parsed[stamp] = Module(
        name, spec.origin, spec.submodule_search_locations is not None, body, False, [], {}
    )
    _collect(module, body)
    return module


def _collect(module: Module, body: list[ast.stmt]) -> None:
    """Names bound at the top of a module, also below `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            overload = isinstance(node, ast.FunctionDef) and any("overload" in ast.dump(d) for d in node.decorator_list)
            if not overload:
                module.names[node.name] = node
            if node.name == "__getattr__":
                module.open = True
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*":
                    module.stars.append(_absolute(module, node))
                else:
                    module.names.setdefault(alias.asname or alias.name, node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                module.names.setdefault(alias.asname or alias.name.split(".")[0], node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for goal in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(goal, ast.Name):
                    module.names.setdefault(goal.id, node)
                elif "sys.modules" in ast.unparse(goal):
                    module.open = True  # the module replaces itself, as the lazy ones do
                elif isinstance(goal, ast.Tuple):
                    module.names.update({e.id: node for e in goal.elts if isinstance(e, ast.Name)})
        elif isinstance(node, ast.If | ast.For | ast.While | ast.With):
            _collect(module, node.body)
            _collect(module, getattr(node, "orelse", []))
            module.open = module.open or isinstance(node, ast.For | ast.While)  # names made in a loop
        elif isinstance(node, ast.Try):
            for part in (node.body, node.orelse, node.finalbody, *(h.body for h in node.handlers)):
                _collect(module, part)
        elif isinstance(node, ast.Expr) and "globals()" in ast.unparse(node):
            module.open = True


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _in_module(name: str, rest: list[str], target: str, hops: int) -> Signature | None:
    """Find `rest` (a name, or a class and its method) in module `name`."""
    module = _read(name)
    if module is None or hops > MOST_HOPS:
        return None
    word = rest[0]
    node = module.names.get(word)
    if node is None:
        unsure = module.open
        for star in module.stars:
            try:
                found = _in_module(star, rest, target, hops + 1)
            except Missing:
                continue
            if found is not None:
                return found
            unsure = True
        if unsure:
            return None
        raise Missing(f"{name} has no {word!r}", word, callables(name))
    if isinstance(node, ast.ImportFrom):
        return _imported(module, node, rest, target, hops)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None if len(rest) > 1 else _of_function(node, target, bound=False)
    if isinstance(node, ast.ClassDef):
        return _of_class(module, node, rest[1:], target, hops)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id != word:
        return _in_module(name, [node.value.id, *rest[1:]], target, hops + 1)  # an alias: A = B
    return None


def _imported(module: Module, node: ast.ImportFrom, rest: list[str], target: str, hops: int) -> Signature | None:
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == rest[0])
    source = _absolute(module, node)
    inner = f"{source}.{original}"
    if module_spec(inner) is not None and not _has(source, original):
        return _in_module(inner, rest[1:], target, hops + 1) if len(rest) > 1 else None
    try:
        return _in_module(source, [original, *rest[1:]], target, hops + 1)
    except Missing:
        return None  # an import that the source cannot follow (optional, conditional): importing will tell


def _has(name: str, word: str) -> bool:
    module = _read(name)
    return module is not None and word in module.names


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, target: str, bound: bool) -> Signature | None:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    known = ("staticmethod", "classmethod", "abstractmethod", "torch.no_grad()", "functools.wraps", "override")
    if any(not name.startswith(known) for name in decorators):
        return None  # a decorator may change the signature
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    pairs = list(zip(positional, defaults, strict=True))[1 if bound and "staticmethod" not in decorators else 0 :]
    parameters = {
        argument.arg: Parameter(argument.arg, "positional", argument.annotation, _text(default))
        for argument, default in pairs
    }
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        parameters[argument.arg] = Parameter(argument.arg, "keyword", argument.annotation, _text(default))
    return Signature(target, parameters, given.kwarg is not None)


def _text(default: ast.expr | None) -> str | None:
    return None if default is None else ast.unparse(default)


def _of_class(module: Module, node: ast.ClassDef, rest: list[str], target: str, hops: int) -> Signature | None:
    """The constructor, or the method named in `rest`. Decorated or meta-classed classes cannot be told."""
    wanted = rest[0] if rest else "__init__"
    if len(rest) > 1 or any(keyword.arg == "metaclass" and not rest for keyword in node.keywords):
        return None
    methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    if wanted in methods:
        found = _of_function(methods[wanted], target, bound=True)
        return found and Signature(target, found.parameters, found.has_kwargs, "function" if rest else "class")
    decorators = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
    if not rest and any(name.rpartition(".")[2] == "dataclass" for name in decorators):
        return _of_dataclass(module, node, target, hops)
    if not rest and "__new__" in methods:
        return _of_function(methods["__new__"], target, bound=True)
    for base in node.bases:
        try:
            found = _in_module(module.name, _dotted(base), target, hops + 1) if not rest else None
        except Missing:
            found = None
        if found is None and ast.unparse(base) not in ("object", "abc.ABC", "ABC"):
            return None
        if found is not None and found.parameters:
            return Signature(target, found.parameters, found.has_kwargs, "class")
    return None if rest else Signature(target, kind="class")


def _of_dataclass(module: Module, node: ast.ClassDef, target: str, hops: int) -> Signature | None:
    parameters: dict[str, Parameter] = {}
    for base in reversed(node.bases):
        try:
            found = _in_module(module.name, _dotted(base), target, hops + 1)
        except Missing:
            found = None
        if found is None and ast.unparse(base).partition("[")[0] not in ("object", "Protocol", "Generic", "ABC"):
            return None
        parameters.update(found.parameters if found else {})
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(statement.annotation):
            continue
        name, default = statement.target.id, statement.value
        if isinstance(default, ast.Call) and ast.unparse(default.func).rpartition(".")[2] == "field":
            options = {keyword.arg: keyword.value for keyword in default.keywords}
            init = options.get("init")
            if isinstance(init, ast.Constant) and init.value is False:
                continue
            factory = options.get("default_factory")
            default = options.get("default")
            if factory is not None:
                made = ast.parse(f"({ast.unparse(factory)})()", mode="eval").body
                default = factory.body if isinstance(factory, ast.Lambda) else made
        parameters[name] = Parameter(name, "positional", statement.annotation, _text(default))
    return Signature(target, parameters, kind="class")


def _dotted(node: ast.expr) -> list[str]:
    """`nn.Module` -> ["nn", "Module"]; a subscript is left out (`Base[int]` is Base)."""
    if isinstance(node, ast.Subscript):
        node = node.value
    text = ast.unparse(node)
    return text.split(".") if text.replace(".", "").isidentifier() else [text]
