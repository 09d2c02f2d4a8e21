"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747): 60,000 + 10,000 images of clothing, MIT licence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from kdrun.data.fetch import default_cache, needed
from kdrun.data.source import TEST, TRAIN
from kdrun.domains.images.shipped.idx import read_idx
from kdrun.domains.images.source import Images
from kdrun.problems import UserError

TARGETS = ("fashion_mnist",)

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = (("train", TRAIN), ("t10k", TEST))


def fashion_mnist(root: str | Path | None = None, *, cache: str | Path | None = None) -> Images:
    """uint8 [70000, 1, 28, 28] with the official test split; ids 0..59999 are training, the rest test.

    root: folder with the four idx files, gzipped or not, instead of what `kdrun fetch fashion_mnist` brought.
    """
    files = _in_folder(Path(root)) if root is not None else needed("fashion_mnist", cache or default_cache())
    pixels, labels, split = [], [], []
    digest = hashlib.sha256()
    for part, number in PARTS:
        images = read_idx(files[f"{part}-images-idx3-ubyte"])
        targets = read_idx(files[f"{part}-labels-idx1-ubyte"])
        if len(images) != len(targets):
            raise ValueError(f"{part}: {len(images)} images but {len(targets)} labels in {root}")
        digest.update(images)
        digest.update(targets)
        pixels.append(images[:, None])
        labels.append(targets.astype(np.int64))
        split.append(np.full(len(targets), number, np.int8))
    x = np.concatenate(pixels)
    return Images(
        x=x,
        y=np.concatenate(labels),
        split=np.concatenate(split),
        ids=np.arange(len(x)),
        classes=CLASSES,
        name="fashion_mnist",
        source_hash=digest.hexdigest(),
        # Where one array of the files ends and the next begins is not in the digest: with other lengths it is not enough.
        determined=[part.shape for part in pixels] == [(60_000, 1, 28, 28), (10_000, 1, 28, 28)],
    )


def _in_folder(folder: Path) -> dict[str, Path]:
    files = {}
    for part, _ in PARTS:
        for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
            found = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
            if found is None:
                raise UserError(
                    f"data.root={folder} has no {name}[.gz]", "leave data.root out and: kdrun fetch fashion_mnist"
                )
            files[name] = found
    return files
