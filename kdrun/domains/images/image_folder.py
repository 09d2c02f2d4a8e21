"""A folder of image files, one subfolder per class, decoded once into a memory-mapped array in the cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.checksums import checksum_of
from kdrun.data import folders, pictures
from kdrun.data.decoded import RAW, decoded, digests, in_threads, keep_rows
from kdrun.data.fetch import default_cache
from kdrun.data.source import SPLITS, TRAIN
from kdrun.domains.images.image_files import ImageFile, image_files, is_image
from kdrun.domains.images.source import Images
from kdrun.files import new_array
from kdrun.problems import UserError, listed

TARGETS = ("image_folder", "unlabelled_images")

FORMAT = 3  # of what is cached; raised when decoding changes
NAMED = 3  # unreadable files whose reason is told


def image_folder(
    root: str | Path | None = None,
    size: int | None = None,
    grey: bool = False,
    alike: str = "stop",
    *,
    cache: str | Path | None = None,
) -> Images:
    """uint8 [N, 3 or 1, H, W] of `root/CLASS/*` or `root/{train,val,test}/CLASS/*` (see image_files); an id is a position
    in the sorted list of file names. Pixels are as `pictures.upright` shows them. Files that cannot be decoded are named
    in `unreadable` and left out.

    size: shorter side after resizing, of which the square middle is kept; null: files as they are, all of one size.
    grey: one channel instead of three.
    alike: what is done with classes whose names differ only in spelling (Cat, cat; red_panda, red panda): stop is an error;
    merge takes them for one; keep takes them for several.

    Raises UserError where there are no images, where none of a class or of a split can be decoded, or they are of different sizes and `size` is null.
    """
    if root is None:
        raise UserError("data=image_folder needs data.root=FOLDER, with one subfolder per class")
    root = Path(root)
    files, notes = image_files(root, alike)
    images = _images(files, root, size, grey, cache, tuple(sorted({file.label for file in files})))
    _refuse_vanished(files, [files[position] for position in images.ids], images.notes)
    return replace(images, notes=(*notes, *images.notes))


image_folder.reads = ("root",)


def unlabelled_images(
    root: str | Path | None = None, like: Images | None = None, *, cache: str | Path | None = None
) -> Images:
    """All image files below a folder, at any depth, without labels, as `data.unlabelled=FOLDER` reads them.

    like: images whose size and channels they are brought to, as image_folder does; where their sides differ, files are as they are.
    """
    if root is None or like is None:
        raise UserError("unlabelled_images reads the folder of data.unlabelled=FOLDER, beside images with labels")
    root = folders.existing(root, "unlabelled")
    names = ((path, folders.composed(folders.relative(path, root))) for path in folders.files(root) if is_image(path))
    files = sorted(
        (ImageFile(path, name, "", TRAIN) for path, name in names), key=lambda file: (file.name, str(file.path))
    )
    if not files:
        found = folders.by_extension(folders.files(root))
        raise UserError(f"data.unlabelled={root} holds no images{f' ({found})' if found else ''}")
    height, width = like.x.shape[-2:]
    size, grey = height if height == width else None, like.x.shape[1] == 1
    return _images(files, root, size, grey, cache, ())


def _images(
    files: list[ImageFile],
    root: Path,
    size: int | None,
    grey: bool,
    cache: str | Path | None,
    classes: tuple[str, ...],
) -> Images:
    """The files that can be decoded, with the notes on the others; classes: of the labels, () where there are none."""
    x, about, source_hash, decoded_hash = pixels_of(files, root, size, grey, Path(cache or default_cache()))
    kept = [files[position] for position in about["readable"]]
    numbers = {label: number for number, label in enumerate(classes)}
    return Images(
        x=x,
        y=np.array([numbers.get(file.label, 0) for file in kept], np.int64),
        split=np.array([file.part for file in kept], np.int8),
        ids=np.array(about["readable"], np.int64),
        classes=classes,
        name=root.resolve().name,
        source_hash=source_hash,
        unreadable=tuple(about["unreadable"]),
        names=tuple(file.name for file in kept),
        notes=tuple(about["notes"]),
        decoded=decoded_hash,
    )


def pixels_of(
    files: list[ImageFile], root: Path, size: int | None, grey: bool, cache: Path
) -> tuple[np.ndarray, dict[str, Any], str, str]:
    """(uint8 [N, 3 or 1, H, W] of the files that can be decoded, what is known of the others, hashes of the files and of the pixels)."""
    contents = digests(root, [file.path for file in files], cache)
    key = [
        FORMAT,
        version("pillow"),
        [[file.name, digest] for file, digest in zip(files, contents, strict=True)],
        size,
        grey,
    ]
    folder = decoded(cache, "image_folder", key, lambda target: _decode(files, size, grey, target))
    about = json.loads((folder / "about.json").read_text())
    listing = "".join(f"{digest}  {file.name}\n" for file, digest in zip(files, contents, strict=True))
    x = np.load(folder / "pixels.npy", mmap_mode="c")
    return x, about, hashlib.sha256(listing.encode()).hexdigest(), checksum_of(folder / "pixels.npy")


def _refuse_vanished(files: list[ImageFile], kept: list[ImageFile], reasons: tuple[str, ...]) -> None:
    """UserError for a class, or a split, that has files and of which none can be decoded."""
    splits = {part: name for name, part in SPLITS.items()}
    for called in (lambda file: f"class {file.label}", lambda file: f"the split {splits[file.part]}"):
        lost = sorted({called(file) for file in files} - {called(file) for file in kept})
        if lost:
            raise UserError(
                f"no file of {listed(lost, NAMED)} can be decoded",
                *reasons[:1],
                "mend the files, or take the folder away",
            )


def _decode(files: list[ImageFile], size: int | None, grey: bool, target: Path) -> None:
    """Write pixels.npy, uint8 [readable, C, H, W], and about.json."""
    # One array for all, so the shape must be known first.
    first = next((image for file in files if (image := decode_image(file.path, size, grey)).pixels is not None), None)
    if first is None:
        raise UserError(f"none of {len(files)} images can be read, for example {files[0].path}")
    shape = first.pixels.shape
    raw = new_array(target / RAW, np.uint8, (len(files), *shape))

    def place(position: int) -> DecodedImage:
        image = decode_image(files[position].path, size, grey)
        if image.pixels is None:
            return image
        if image.pixels.shape != shape:
            raise UserError(
                f"{files[position].name} is of size {image.pixels.shape[2]}x{image.pixels.shape[1]}, "
                f"others are {shape[2]}x{shape[1]}",
                "to bring all to one size: data.size=32, for example",
            )
        raw[position] = image.pixels
        return replace(image, pixels=raw[position])

    images = in_threads(place, range(len(files)))
    pictures.refuse_ranges((file.name, image.range) for file, image in zip(files, images, strict=True))
    readable = np.flatnonzero([image.pixels is not None for image in images])
    broken = {file.name: image.reason for file, image in zip(files, images, strict=True) if image.pixels is None}
    several = sum(image.frames > 1 for image in images)
    notes = [f"{name}: {reason}" for name, reason in list(broken.items())[:NAMED]]
    if several:
        notes.append(f"{several} files with several frames, of which the first is read")
    about = {"readable": readable.tolist(), "unreadable": list(broken), "notes": notes}
    keep_rows(raw, readable, target, about)


@dataclass(frozen=True)
class DecodedImage:
    """pixels: uint8 [C, H, W], or None, and the reason; frames: of the file; range: of values beyond 8 bits, see pictures."""

    pixels: np.ndarray | None
    reason: str = ""
    frames: int = 1
    range: str | None = None


def decode_image(path: Path, size: int | None, grey: bool) -> DecodedImage:
    """One file as `image_folder` reads it."""
    from PIL import Image, ImageOps

    try:
        with pictures.opened(path) as opened:
            frames = getattr(opened, "n_frames", 1)
            values = pictures.range_of(opened)
            image = pictures.upright(opened)
            if grey:
                image = image.convert("L")
            if size is not None and image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except pictures.BrokenImage as error:
        return DecodedImage(None, str(error))
    return DecodedImage(pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1)), "", frames, values)
