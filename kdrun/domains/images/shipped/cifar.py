"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the standard binary archives, which the user brings.

A record of CIFAR-10 is 1 label byte and 3072 pixels (red, green, blue planes of 32x32); one of CIFAR-100 has two label
bytes, coarse and fine. kdrun does not download these sets.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np

from kdrun.data.decoded import decoded, stamp
from kdrun.data.fetch import default_cache
from kdrun.data.source import TEST, TRAIN
from kdrun.domains.images.source import Images
from kdrun.problems import UserError

TARGETS = ("cifar10", "cifar100")

PIXELS = 3 * 32 * 32


def cifar10(root: str | Path | None = None, *, cache: str | Path | None = None) -> Images:
    """uint8 [60000, 3, 32, 32]; ids follow data_batch_1 ... data_batch_5, test_batch.

    root: `cifar-10-binary.tar.gz`, the folder it unpacks to, or a folder with either.
    """
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    folder = _folder(
        root, cache, "cifar10", "cifar-10-binary.tar.gz", "cifar-10-batches-bin", [*train, "test_batch.bin"]
    )
    return _read("cifar10", folder, train, "test_batch.bin", "batches.meta.txt", labels=1, label=0)


def cifar100(root: str | Path | None = None, coarse: bool = False, *, cache: str | Path | None = None) -> Images:
    """uint8 [60000, 3, 32, 32]; ids follow train.bin, test.bin.

    root: `cifar-100-binary.tar.gz`, the folder it unpacks to, or a folder with either.
    coarse: the 20 superclasses instead of the 100 classes.
    """
    folder = _folder(root, cache, "cifar100", "cifar-100-binary.tar.gz", "cifar-100-binary", ["train.bin", "test.bin"])
    names = f"{'coarse' if coarse else 'fine'}_label_names.txt"
    return _read("cifar100", folder, ["train.bin"], "test.bin", names, labels=2, label=0 if coarse else 1)


def _folder(root, cache, name: str, archive: str, inside: str, files: list[str]) -> Path:
    """The folder with the .bin files, unpacked into the cache if need be."""
    if root is None:
        raise UserError(f"data={name} needs your copy of {archive}: data.root=FOLDER (kdrun does not download it)")
    root = Path(root)
    for folder in (root, root / inside):
        if all((folder / file).is_file() for file in files):
            return folder
    path = root if root.is_file() else root / archive
    if not path.is_file():
        raise UserError(f"data.root={root}: neither {archive} nor the files it holds ({files[0]} ...) are there")

    def unpack(target: Path) -> None:
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    base = Path(member.name).name
                    if member.isfile() and base.endswith((".bin", ".txt")):
                        with tar.extractfile(member) as content, open(target / base, "wb") as out:
                            shutil.copyfileobj(content, out)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{path} cannot be unpacked: {error}") from error
        lacking = [file for file in files if not (target / file).is_file()]
        if lacking:
            raise UserError(
                f"{path} has no {', '.join(lacking)}", f"it must be the *binary* version of {name}, called {archive}"
            )

    key = [str(path.resolve()), *stamp(path)]
    return decoded(cache or default_cache(), name, key, unpack)


def _read(name: str, folder: Path, train: list[str], test: str, names: str, labels: int, label: int) -> Images:
    classes = tuple(line.strip() for line in (folder / names).read_text().splitlines() if line.strip())
    records, split, digest = [], [], hashlib.sha256()
    for file in [*train, test]:
        values = np.fromfile(folder / file, np.uint8)
        if len(values) == 0 or len(values) % (labels + PIXELS):
            raise UserError(f"{folder / file} has {len(values)} bytes, no multiple of a record ({labels + PIXELS})")
        digest.update(values)
        records.append(values.reshape(-1, labels + PIXELS))
        split.append(np.full(len(records[-1]), TEST if file == test else TRAIN, np.int8))
    table = np.concatenate(records)
    return Images(
        x=np.ascontiguousarray(table[:, labels:]).reshape(-1, 3, 32, 32),
        y=table[:, label].astype(np.int64),
        split=np.concatenate(split),
        ids=np.arange(len(table)),
        classes=classes,
        name=name,
        source_hash=digest.hexdigest(),
    )
