"""A folder of image files, one subfolder per class, decoded once into a memory-mapped array in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdrun.data.decoded import decoded
from kdrun.data.fetch import default_cache
from kdrun.data.images import TEST, TRAIN, VAL, Images
from kdrun.problems import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PARTS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
THREADS = 8
FORMAT = 1  # of what is cached; raised when decoding changes


@dataclass(frozen=True)
class _File:
    path: Path
    name: str  # relative to the root, with forward slashes
    label: str
    part: int


def image_folder(
    root: str | Path | None = None,
    size: int | None = None,
    grey: bool = False,
    *,
    cache: str | Path | None = None,
) -> Images:
    """uint8 [N, 3 or 1, H, W] of `root/CLASS/*` or `root/{train,val,test}/CLASS/*`; an id is a position in the sorted
    list of file names. Files that cannot be decoded are named in `unreadable` and left out.

    size: shorter side after resizing, of which the square middle is kept; null: files as they are, all of one size.
    grey: one channel instead of three.

    Raises UserError where there are no images, or they are of different sizes and `size` is null.
    """
    if root is None:
        raise UserError("data=image_folder needs data.root=FOLDER, with one subfolder per class")
    root = Path(root)
    files = _files(root)
    cache = Path(cache or default_cache())
    contents = _contents(root, files, cache)
    key = [FORMAT, _pillow(), [[file.name, digest] for file, digest in zip(files, contents, strict=True)], size, grey]
    folder = decoded(cache, "image_folder", key, lambda target: _decode(files, size, grey, target))
    about = json.loads((folder / "about.json").read_text())
    x = np.load(folder / "pixels.npy", mmap_mode="c")
    if hashlib.sha256(x).hexdigest() != about["sha256"]:
        raise UserError(f"{folder} was damaged after it was written; delete it to decode the images again")
    readable = np.array(about["readable"], np.int64)
    classes = tuple(sorted({file.label for file in files}))
    numbers = {label: number for number, label in enumerate(classes)}
    kept = [files[position] for position in readable]
    listing = "".join(f"{digest}  {file.name}\n" for file, digest in zip(files, contents, strict=True))
    return Images(
        x=x,
        y=np.array([numbers[file.label] for file in kept], np.int64),
        split=np.array([file.part for file in kept], np.int8),
        ids=readable,
        classes=classes,
        name=root.resolve().name,
        source_hash=hashlib.sha256(listing.encode()).hexdigest(),
        unreadable=tuple(about["unreadable"]),
        names=tuple(file.name for file in kept),
    )


def _files(root: Path) -> list[_File]:
    """All image files in sorted order. The folders below root are parts if all of them are called so, else classes."""
    if not root.is_dir():
        raise UserError(f"data.root={root}: there is no such folder")
    tops = _folders(root)
    parted = bool(tops) and all(top.name in PARTS for top in tops)
    if parted and not any(PARTS[top.name] == TRAIN for top in tops):
        raise UserError(f"data.root={root} has {', '.join(top.name for top in tops)} but no train")
    found = []
    for top in tops:
        part = PARTS[top.name] if parted else TRAIN
        for label in _folders(top) if parted else [top]:
            for folder, _, names in os.walk(label):
                for name in names:
                    if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                        path = Path(folder, name)
                        found.append(_File(path, path.relative_to(root).as_posix(), label.name, part))
    if not found:
        raise UserError(
            f"data.root={root} holds no images in subfolders",
            "expected root/CLASS/*.png, or root/train/CLASS/*.png and so on with val and test",
        )
    return sorted(found, key=lambda file: file.name)


def _folders(path: Path) -> list[Path]:
    return sorted(inside for inside in path.iterdir() if inside.is_dir() and not inside.name.startswith("."))


def _contents(root: Path, files: list[_File], cache: Path) -> list[str]:
    """sha256 of every file; files are read again only when a name, a size or a time of change is another."""
    statuses = [file.path.stat() for file in files]
    seen = [[file.name, status.st_size, status.st_mtime_ns] for file, status in zip(files, statuses, strict=True)]

    def hash_all(target: Path) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            digests = list(pool.map(lambda file: hashlib.sha256(file.path.read_bytes()).hexdigest(), files))
        (target / "digests.json").write_text(json.dumps(digests))

    folder = decoded(cache, "file_hashes", [str(root.resolve()), seen], hash_all)
    return json.loads((folder / "digests.json").read_text())


def _decode(files: list[_File], size: int | None, grey: bool, target: Path) -> None:
    """Write pixels.npy, uint8 [readable, C, H, W], and about.json."""
    # One array for all, so the shape must be known first.
    with ThreadPoolExecutor(THREADS) as pool:
        first = next(
            (image for image in pool.map(lambda f: _read(f.path, size, grey), files[:64]) if image is not None), None
        )
        if first is None:
            first = next((image for file in files[64:] if (image := _read(file.path, size, grey)) is not None), None)
        if first is None:
            raise UserError(f"none of {len(files)} images can be read, for example {files[0].path}")
        raw = np.lib.format.open_memmap(target / "raw.npy", mode="w+", dtype=np.uint8, shape=(len(files), *first.shape))

        def place(position: int) -> bool:
            image = _read(files[position].path, size, grey)
            if image is None:
                return False
            if image.shape != first.shape:
                raise UserError(
                    f"{files[position].name} is of size {image.shape[2]}x{image.shape[1]}, "
                    f"others are {first.shape[2]}x{first.shape[1]}",
                    "to bring all to one size: data.size=32, for example",
                )
            raw[position] = image
            return True

        good = np.array(list(pool.map(place, range(len(files)))), bool)
    readable = np.flatnonzero(good)
    pixels = np.lib.format.open_memmap(
        target / "pixels.npy", mode="w+", dtype=np.uint8, shape=(len(readable), *first.shape)
    )
    for start in range(0, len(readable), 1024):
        pixels[start : start + 1024] = raw[readable[start : start + 1024]]
    pixels.flush()
    (target / "raw.npy").unlink()
    about = {
        "sha256": hashlib.sha256(pixels).hexdigest(),
        "readable": readable.tolist(),
        "unreadable": [file.name for file, well in zip(files, good, strict=True) if not well],
    }
    (target / "about.json").write_text(json.dumps(about))


def _read(path: Path, size: int | None, grey: bool) -> np.ndarray | None:
    """uint8 [C, H, W], or None where the file cannot be decoded."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255
                image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
            image = image.convert("L" if grey else "RGB")
            if size is not None and image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pillow() -> str:
    from importlib.metadata import version

    return version("pillow")
