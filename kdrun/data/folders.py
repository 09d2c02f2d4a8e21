"""What a folder holds that a person filled, without what systems leave behind: hidden files, trash, thumbnails."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from kdrun.problems import UserError

SYSTEM = {
    *(
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "@tmp",
        "#recycle",
        "#snapshot",
    ),
    *("~snapshot", "lost+found", "$recycle.bin", "recycler", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("system volume information", "network trash folder", "temporary items"),
}
"""Names, in small letters, of what operating systems, archivers and network drives put into folders."""


def existing(root: str | Path, key: str = "root") -> Path:
    """The folder that `data.<key>` names. Raises UserError where there is none."""
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "there is no such folder"
        raise UserError(f"data.{key}={root}: {what}")
    return root


def shipped(data: str, root: str | Path | None, names: Iterable[str]) -> list[Path]:
    """Files of scikit-learn's own data sets, or of `root` in their place. Importing scikit-learn takes over a second and is not
    needed for them. Raises UserError for what is not there; data: what was asked for, as `data=NAME`."""
    if root is None:
        found = find_spec("sklearn")
        if found is None or not found.submodule_search_locations:
            raise UserError(f"data={data} needs scikit-learn, which is not installed: pip install scikit-learn")
        root = Path(next(iter(found.submodule_search_locations)), "datasets", "data")
    paths = [Path(root) / name for name in names]
    for path in paths:
        if not path.is_file():
            raise UserError(f"data={data} needs {path}, which is not there; it comes with scikit-learn: reinstall it")
    return paths


def visible(name: str) -> bool:
    """Whether a file or folder of this name was put there by a person. What begins with a dot is hidden (`.git`,
    `.Trash-1000`, `._x` of a Mac's resource forks)."""
    return not name.startswith(".") and name.lower() not in SYSTEM


def folders(path: Path) -> list[Path]:
    """Visible folders in `path`, in the order of their names."""
    return sorted(path / entry.name for entry in _entries(path) if visible(entry.name) and os.path.isdir(entry.path))


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied", f"see: ls -ld {shlex.quote(str(path))}") from None


def files(path: Path, _above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All visible files below `path`, at any depth. Links are followed, except to a folder that they lie in."""
    real = os.path.realpath(path)
    if any(above == real or above.startswith(real + os.sep) for above in _above):
        return
    inside = sorted((entry for entry in _entries(path) if visible(entry.name)), key=lambda entry: entry.name)
    for entry in inside:
        # os.path asks the system, entry knows what is no link; of a link to itself only the first says that it is neither
        asked = os.path if entry.is_symlink() else None
        if asked.isdir(entry.path) if asked else entry.is_dir():
            yield from files(path / entry.name, (*_above, real))
        elif asked.isfile(entry.path) if asked else entry.is_file():
            yield path / entry.name


def relative(path: Path, root: Path) -> str:
    """Path.relative_to, of a path that lies in a folder as `files` gave it, with forward slashes; without its fifteen calls."""
    return str(path).removeprefix(str(root)).replace(os.sep, "/").lstrip("/")


def below(root: Path, relative: str) -> Path:
    """`root / relative`, where need be under the names with which the system stores accents; whether it is there or not."""
    place = root
    for name in Path(relative).parts:
        if not os.path.exists(place / name) and place.is_dir():  # also for a name that is too long to be
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
