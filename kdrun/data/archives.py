"""Find files inside folders and archives by name or path, and read them; gzip is taken off on the way."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

ZIPS = (".whl", ".zip")
TARS = (".tgz", ".tar.gz", ".tar", ".tar.xz", ".tar.bz2")

Take = Callable[[str, IO[bytes]], None]
"""Called with the name of a wanted file and its content, at most once for each place where it is found."""


def search(place: Path, wanted: set[str], take: Take) -> None:
    """Look for files called as in `wanted` (or so plus .gz) in a folder, in an archive, or at the path itself.

    Archives that lie in a folder are opened too. Damaged archives raise OSError, EOFError, tarfile.TarError or
    zipfile.BadZipFile.
    """
    if place.is_dir():
        found = sorted(path for path in place.rglob("*") if path.is_file())
        loose = [path for path in found if _match(path.name, wanted)]
        for path in loose + [path for path in found if path not in loose and is_archive(path)]:
            search(path, wanted, take)
        return
    name = _match(place.name, wanted)
    if name:
        with open(place, "rb") as file:
            _give(name, place.name, file, take)
    else:
        for path, opened in _contents(place):
            inside = PurePosixPath(path).name
            if name := _match(inside, wanted):
                with opened() as file:
                    _give(name, inside, file, take)


def _contents(place: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """(path, function that opens it) of each file of an archive; of another file nothing."""
    if place.name.endswith(ZIPS):
        with zipfile.ZipFile(place) as archive:
            for name in archive.namelist():
                yield name, partial(archive.open, name)
    elif is_archive(place):
        with _tar(place) as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, partial(archive.extractfile, member)


def members(place: Path, wanted: re.Pattern[str]) -> Iterator[dict[str, bytes]]:
    """{path: content} of the files whose path matches, for a folder or an archive that has any, and then for each
    archive that lies in the folder. Damaged archives raise as in `search`."""
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.is_file())
        found = {path.as_posix(): path.read_bytes() for path in files if wanted.search(path.absolute().as_posix())}
        if found:
            yield found
        for path in files:
            if is_archive(path):
                yield from members(path, wanted)
        return
    found = {path: opened().read() for path, opened in _contents(place) if wanted.search(path)}
    if found:
        yield found


def is_archive(path: Path) -> bool:
    return path.name.endswith((*ZIPS, *TARS, ".deb"))


def _match(name: str, wanted: set[str]) -> str | None:
    if name in wanted:
        return name
    return name[:-3] if name.endswith(".gz") and name[:-3] in wanted else None


def _give(name: str, found_as: str, file: IO[bytes], take: Take) -> None:
    if found_as == name:
        take(name, file)
    else:
        with gzip.open(file) as content:
            take(name, content)


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar file; for a Debian package the one with its files, as dpkg-deb writes it out."""
    if not path.name.endswith(".deb"):
        with tarfile.open(path) as archive:
            yield archive
        return
    if shutil.which("dpkg-deb") is None:
        raise OSError(f"{path.name} can only be opened where dpkg-deb is installed")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            yield archive
        process.stdout.read()
    if process.returncode != 0:
        raise OSError(f"{path.name} is not a whole Debian package")
