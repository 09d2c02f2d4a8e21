"""Entry points of installed packages, read from the text of their metadata. Nothing is imported, not even importlib.metadata:
`kdrun ls` and shell completion stand on it, and it costs three times as much as all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

CONFIGS, DOMAINS = "kdrun.conf", "kdrun.domains"
"""Groups of entry points: packages of config files, and kinds of data."""


def entry_points(group: str) -> list[tuple[str, str]]:
    """(name, value) of every installed entry point of a group, sorted."""
    found: dict[tuple[str, str], None] = {}
    for folder in dict.fromkeys(sys.path):
        try:
            entries = list(os.scandir(folder or "."))
        except OSError:
            continue
        for entry in entries:
            if not entry.name.endswith((".dist-info", ".egg-info")):
                continue
            try:
                with open(os.path.join(entry.path, "entry_points.txt"), encoding="utf-8") as file:
                    text = file.read()
            except (OSError, UnicodeDecodeError):
                continue
            if f"[{group}]" in text:
                found.update(dict.fromkeys(_section(text, group)))
    return sorted(found)


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    inside = False
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and "=" in line:
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
