"""Names of image files as people write them, and the files below a folder that they mean."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

MISSING = "there is no such file"


def below(folder: Path, name: str) -> str | None:
    """A name as a path relative to the folder; None for one outside. Links within the folder may lead anywhere."""
    path = PurePosixPath(name)
    if not path.is_absolute():
        return None if ".." in path.parts else name
    try:
        real = folder.resolve()
        for one, base in ((Path(name), folder), (Path(name), real), (Path(name).resolve(), real)):
            if ".." not in one.parts and one.is_relative_to(base):
                return one.relative_to(base).as_posix()
    except (OSError, ValueError, RuntimeError):  # a name too long or with a null byte, links in a circle
        pass
    return None


def near(folder: Path, name: str) -> str:
    """What to say of a name that is no file: the file that was probably meant, or what the name is instead."""
    if re.search("(?i)(?:^|/)(?:https?|s3|gs|file|data):", name):
        return ": it is an address, and nothing is downloaded"
    ways = {
        "names with %.. are taken as they are": unquote(name),
        "a path has / and no backslashes": name.replace("\\", "/"),
        "its letters are composed otherwise": unicodedata.normalize("NFC", name),
        "its letters are composed in another way": unicodedata.normalize("NFD", name),
    }
    for why, other in ways.items():
        place = below(folder, other) if other != name else None
        if place is not None and (folder / place).is_file():
            return f", but {other} is there: {why}"
    return ": a path has / and no backslashes" if "\\" in name else ""
