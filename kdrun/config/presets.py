"""Two slips that everybody makes in a preset, found by reading the file: Hydra accepts one and words the other badly."""

from __future__ import annotations

from typing import Any

from kdrun.config.groups import Groups, Option

PRESETS = ("experiment", "model")
"""Groups whose files set other groups and keys at the root; they have no node of their own."""


def mistakes(option: Option, table: Groups) -> list[list[str]]:
    """Each as lines, with the corrected line: a missing `# @package _global_`, a default without `override /`."""
    found = []
    entries = defaults_of(option.file)
    if entries is None:
        return []  # not YAML; composing says where
    if not _at_root(option.file):
        found.append(
            [
                f"{option.shown}, line 1: its values land below `{option.group}` and change nothing",
                "put `# @package _global_` above everything",
            ]
        )
    for key, value, line in entries:
        words = key.split()
        group, at, package = words[-1].lstrip("/").partition("@")
        if group not in table or (at and words[-1].startswith("/") and "override" not in words):
            continue  # `- /teacher@assistants.mid: resnet8` adds a node, it overrides nothing
        if "override" not in words or not words[-1].startswith("/"):
            right = f"- override /{group}{at}{package}: {value}"
            found.append(
                [f"{option.shown}, line {line}: `- {key}: {value}` does not choose {group}", f"write `{right}`"]
            )
    return found


def _at_root(file: str) -> bool:
    with open(file, encoding="utf-8", errors="replace") as text:
        for line in text:
            if line.strip() and not line.startswith("#"):
                return False
            if line.lstrip("#").split()[:2] == ["@package", "_global_"]:
                return True
    return True  # nothing but comments: nothing lands anywhere


def defaults_of(file: str) -> list[tuple[str, str, int]] | None:
    """(key, value, line) of the entries `- key: value` of a defaults list; None where the file is not YAML."""
    import yaml

    try:
        with open(file, encoding="utf-8") as text:
            root: Any = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    found = []
    for name, node in root.value if isinstance(root, yaml.MappingNode) else ():
        if name.value == "defaults" and isinstance(node, yaml.SequenceNode):
            for entry in node.value:
                if isinstance(entry, yaml.MappingNode) and entry.value:
                    key, value = entry.value[0]
                    found.append((str(key.value), str(value.value), key.start_mark.line + 1))
    return found
