"""What the file of an option says: its content, its lines, and where its values land."""

from __future__ import annotations

from typing import Any

from kdrun.config.trees import leaves


def load(file: str) -> dict[str, Any]:
    """The content; {} where the file says nothing, or is not YAML (composing says where)."""
    import yaml

    tree = _read(file, lambda text: yaml.load(text, _loader()))
    return tree if isinstance(tree, dict) else {}


def defaults_of(file: str) -> list[tuple[str, str, int]] | None:
    """(key, value, line) of the entries `- key: value` of a defaults list; None where the file is not YAML."""
    import yaml

    root = _nodes(file)
    if root is False:
        return None
    found = []
    for name, node in root.value if isinstance(root, yaml.MappingNode) else ():
        if name.value == "defaults" and isinstance(node, yaml.SequenceNode):
            for entry in node.value:
                if isinstance(entry, yaml.MappingNode) and entry.value:
                    key, value = entry.value[0]
                    found.append((str(key.value), str(value.value), key.start_mark.line + 1))
    return found


def own_keys(file: str) -> dict[str, Any]:
    """Dotted key -> value of what a file says itself, beside the options it is composed of. A list is one value."""
    own = {name: value for name, value in load(file).items() if name != "defaults"}
    return dict(leaves(own, lists=False)) if own else {}


def line_of(file: str, package: str, path: str) -> int | None:
    """The line of a file, whose values land in `package`, that sets `path`; None where it does not."""
    import yaml

    inside, parts = package.split(".") if package else [], path.split(".")
    if parts[: len(inside)] != inside:
        return None
    line, node = 1, _nodes(file)
    for part in parts[len(inside) :]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        name, node = next((pair for pair in pairs if pair[0].value == part), (None, None))
        if name is None:
            return None
        line = name.start_mark.line + 1
    return None if node is False else line


def package_of(file: str, default: str) -> str:
    """Where the values of a file land: a header `# @package NAME` wins over the folder; `_global_` is the root."""
    with open(file, encoding="utf-8", errors="replace") as text:
        for line in text:
            if line.strip() and not line.startswith("#"):
                break
            words = line.lstrip("#").split()
            if words[:1] == ["@package"] and len(words) > 1:
                return "" if words[1] == "_global_" else words[1].replace("_global_.", "").replace("_group_", default)
    return default


def _nodes(file: str) -> Any:
    """The content as YAML's nodes, which know their lines; False where the file is not YAML."""
    import yaml

    return _read(file, lambda text: yaml.compose(text, _loader()))


def _loader() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _read(file: str, reader: Any) -> Any:
    import yaml

    try:
        with open(file, encoding="utf-8") as text:
            return reader(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
