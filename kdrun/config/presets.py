"""Two slips that everybody makes in a preset, found by reading the file: Hydra accepts one and words the other badly."""

from __future__ import annotations

from kdrun.config.groups import Groups, Option
from kdrun.config.option_file import defaults_of, load, package_of

PRESETS = ("experiment", "model")
"""Groups whose files set other groups and keys at the root; they have no node of their own."""


def mistakes(option: Option, table: Groups) -> list[list[str]]:
    """Each as lines, with the corrected line: a missing `# @package _global_`, a default without `override /`."""
    found = []
    entries = defaults_of(option.file)
    if entries is None:
        return []  # not YAML; composing says where
    if package_of(option.file, option.group) and load(option.file):
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
