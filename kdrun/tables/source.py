"""A YAML file whose every value knows its line, so that a mistake can be named where it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kdrun.problems import Problems, closest, listed

Path = tuple[Any, ...]
"""Keys and positions from the top: ("rows", 2, "label")."""


class Source:
    """The content of one file. Getters return an empty value where there is none or a wrong one, which is then a problem."""

    def __init__(self, shown: str, content: Any, lines: dict[Path, int], problems: Problems) -> None:
        self.shown, self.content, self.lines, self.problems = shown, content, lines, problems

    def problem(self, path: Path, text: str) -> None:
        """`conf/table/x.yaml, line 4: rows.2.label: expected text`"""
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1)
        key = ".".join(map(str, path))
        self.problems.add(f"{self.shown}, line {line}: {key}{': ' if key else ''}{text}")

    def get(self, path: Path) -> Any:
        node = self.content
        for part in path:
            if isinstance(node, dict):
                node = node.get(part)
            elif isinstance(node, list) and isinstance(part, int) and part < len(node):
                node = node[part]
            else:
                return None
        return node

    def mapping(self, path: Path, known: Iterable[str] | None) -> dict[str, Any]:
        """A mapping whose keys are all `known` (None: any)."""
        node = self.get(path)
        if node is None:
            return {}
        if not isinstance(node, dict):
            self.problem(path, f"expected a mapping, got {node!r}")
            return {}
        for key in node:
            if known is not None and key not in known:
                self.problem((*path, key), f"no such key{closest(str(key), known)}; all: {listed(known)}")
        return node

    def items(self, path: Path) -> list[Any]:
        node = self.get(path)
        return node if isinstance(node, list) else []

    def entries(self, path: Path, known: Iterable[str]) -> Iterator[tuple[int, Path]]:
        """(position, path) of the mappings in a list that must not be empty."""
        if not self.items(path):
            self.problem(path, "expected a list of entries such as `- {id: a, label: A}`")
        for number, node in enumerate(self.items(path)):
            if isinstance(node, dict):
                self.mapping((*path, number), known)
                yield number, (*path, number)
            else:
                self.problem((*path, number), f"expected a mapping with `id`, got {node!r}")

    def text(self, path: Path, required: bool = False) -> str:
        node = self.get(path)
        if node is None and not required:
            return ""
        if not isinstance(node, str) or not node.strip():
            self.problem(path, "a text is required" if node is None else f"expected text, got {node!r}: quote it")
            return ""
        return node.strip()

    def texts(self, path: Path) -> list[str]:
        node = self.get(path)
        if node is None:
            return []
        if not isinstance(node, list) or not all(isinstance(item, str) for item in node):
            self.problem(path, f"expected a list of texts, got {node!r}")
            return []
        return list(node)

    def choice(self, path: Path, options: Iterable[str]) -> str | None:
        node = self.get(path)
        if node is None or node in options:
            return node
        self.problem(path, f"expected one of {listed(options)}, got {node!r}{closest(str(node), options)}")
        return None


def read_source(file: str, shown: str, problems: Problems) -> Source:
    """Parse `file`. A mistake in the YAML itself, a key given twice and a file that is no mapping are problems."""
    import yaml

    lines: dict[Path, int] = {}
    content: Any = None
    try:
        with open(file, encoding="utf-8") as text:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
            node = loader.get_single_node()
        if node is not None:
            _walk(node, (), lines, shown, problems)
            content = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problems.add(f"{shown}, line {line}: {error.problem}")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.add(f"{shown}: {error}")
    source = Source(shown, content, lines, problems)
    if not isinstance(content, dict) and not problems.found:
        source.problem((), "expected a mapping with title, rows and columns")
    return source


def _walk(node: Any, path: Path, lines: dict[Path, int], shown: str, problems: Problems) -> None:
    import yaml

    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, key.value)
            if inner in lines:
                problems.add(f"{shown}, line {key.start_mark.line + 1}: {'.'.join(map(str, inner))}: given twice")
            lines[inner] = key.start_mark.line + 1
            _walk(value, inner, lines, shown, problems)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _walk(item, (*path, number), lines, shown, problems)
