"""Nested mappings as one mapping with dotted keys, as W&B shows configs in columns."""

from __future__ import annotations

from typing import Any


def flatten(tree: dict[str, Any], separator: str = ".") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Lists and empty mappings are values. A separator inside a key is escaped with a
    backslash, so {"a": {"b": 1}, "a.b": 2} keeps both."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: dict[str, Any]) -> None:
        for key, value in node.items():
            escaped = str(key).replace("\\", "\\\\").replace(separator, "\\" + separator)
            path = f"{prefix}{separator}{escaped}" if prefix else escaped
            if isinstance(value, dict) and value:
                visit(path, value)
            else:
                flat[path] = value

    visit("", tree)
    return flat
