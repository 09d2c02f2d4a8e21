"""What a folder holds that a person filled, without what systems leave behind: hidden files, trash, thumbnails."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

SYSTEM = frozenset(
    (
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "@tmp",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "lost+found",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "network trash folder",
        "temporary items",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
    )
)
"""Names, in small letters, of what operating systems, archivers and network drives put into folders."""


def visible(name: str) -> bool:
    """Whether a file or folder of this name was put there by a person. What begins with a dot is hidden (`.git`,
    `.Trash-1000`, `._x` of a Mac's resource forks)."""
    return not name.startswith(".") and name.lower() not in SYSTEM


def folders(path: Path) -> list[Path]:
    """Visible folders in `path`, in the order of their names."""
    return sorted(inside for inside in path.iterdir() if visible(inside.name) and inside.is_dir())


def files(path: Path, _above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All visible files below `path`, at any depth. Links are followed, except to a folder that they lie in."""
    real = os.path.realpath(path)
    if any(above == real or above.startswith(real + os.sep) for above in _above):
        return
    with os.scandir(path) as entries:
        inside = sorted((entry for entry in entries if visible(entry.name)), key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir():
            yield from files(path / entry.name, (*_above, real))
        elif entry.is_file():
            yield path / entry.name


def below(root: Path, relative: str) -> Path:
    """`root / relative`, where need be under the names with which the system stores accents; whether it is there or not."""
    place = root
    for name in Path(relative).parts:
        if not (place / name).exists() and place.is_dir():
            wanted = composed(name)
            name = next((entry for entry in os.listdir(place) if composed(entry) == wanted), name)
        place = place / name
    return place


def composed(text: str) -> str:
    """Text in Unicode's composed form (NFC): some systems write `é` as one character, some as two."""
    return unicodedata.normalize("NFC", text)


def by_extension(paths: Iterable[Path]) -> str:
    """`3 .heic, 1 without extension`: how many files of each kind there are, most of all first."""
    counts = Counter(path.suffix.lower() or "without extension" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
