"""Entry points of installed packages, read from the text of their metadata. Nothing is imported, not even importlib.metadata:
`kdrun ls` and shell completion stand on it, and it costs three times as much as all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache

CONFIGS, DOMAINS = "kdrun.conf", "kdrun.domains"
"""Groups of entry points: packages of config files, and kinds of data."""


def entry_points(group: str) -> list[tuple[str, str]]:
    """(name, value) of every installed entry point of a group, sorted."""
    folders = []
    for folder in dict.fromkeys(os.path.abspath(path) for path in sys.path):
        try:
            folders.append((folder, os.stat(folder).st_mtime_ns))
        except OSError:
            continue
    return list(_found(group, tuple(folders)))


@cache
def _found(group: str, folders: tuple[tuple[str, int], ...]) -> list[tuple[str, str]]:
    """Read once: what is installed or removed changes the time of its folder."""
    found: dict[tuple[str, str], None] = {}
    for folder, _ in folders:
        try:
            entries = list(os.scandir(folder))
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
