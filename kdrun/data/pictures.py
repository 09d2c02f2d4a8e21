"""One image file to upright RGB pixels, by the same rules for every reader. No torch; Pillow when it is needed.

- Turned as its EXIF orientation says; the first of several frames.
- Transparent parts on white, also those of palettes and of single colours that a file declares transparent.
- 16 bits per value: the higher eight. Grey values of 32 bits and floats: 0..1 (floats), 0..255, or 0..65535 as 16 bits,
  whichever is the narrowest range that holds all values of the file; any other range is refused, never clipped.
- CMYK, LAB and other colours as Pillow converts them.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from kdrun.problems import UserError

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "MPO": (".mpo",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "PCX": (".pcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "QOI": (".qoi",),
    "ICO": (".ico",),
}
"""What is read, by Pillow's name of the format. Left out is what runs another program (EPS), or is no picture (PDF)."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MOST_PIXELS = 178_956_970
"""Larger images are taken for decompression bombs: 537 MB of pixels each. The same number as Pillow's own."""
PAPER = (255, 255, 255)
"""What is behind transparent pixels."""
BLACK = "0"
RANGES = {BLACK: (0.0, 1.0), "0..1": (1.0, 255.0), "0..255": (255.0, 1.0), "0..65535": (65535.0, 1 / 256)}
"""Ranges of grey values beyond 8 bits: the largest value, and what values are multiplied with (16 bits: floored)."""

MACHINE = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
"""Errors of the disk or of the system: no fault of an image, and another time it may be read."""

_CLEAR = "transparency"
_LEVELS = {
    "L;2": lambda level: level * 85,
    "L;4": lambda level: level * 17,
    "RGB;16B": lambda levels: tuple(level >> 8 for level in levels),
}
"""By Pillow's name of how a PNG stores pixels: from the colour it declares transparent to that of the pixels as read."""


class BrokenImage(ValueError):
    """An image that cannot be used; the message says why."""


@contextmanager
def opened(source: str | os.PathLike[str] | IO[bytes] | Any) -> Iterator[Any]:
    """A Pillow image that is open but not decoded yet. Whatever goes wrong with it until the end is a BrokenImage.

    source: a path, an open file or a Pillow image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's word on large images and odd metadata: MOST_PIXELS decides
            if isinstance(source, Image.Image):
                yield _checked(source)
            else:
                with Image.open(source, formats=_formats()) as image:
                    if image.format == "PNG" and _CLEAR in image.info and (levels := _LEVELS.get(image.tile[0][3])):
                        image.info[_CLEAR] = levels(image.info[_CLEAR])
                    yield _checked(image)
    except FileNotFoundError:
        raise BrokenImage("there is no such file") from None
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError:  # its own words name the object that was read, by its address in memory
        raise BrokenImage("no image, or of a kind that is not read") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        if getattr(error, "errno", None) in MACHINE:
            raise
        text = str(error).splitlines()[0] if str(error) else ""
        raise BrokenImage(f"{type(error).__name__}: {text}"[:160]) from None


def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _checked(image: Any) -> Any:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BrokenImage(f"{width}x{height} pixels, more than {MOST_PIXELS:,}")
    if min(width, height) < 1:
        raise BrokenImage("no pixels")
    return image


def upright(image: Any) -> Any:
    """A Pillow image of any mode as one in RGB, by the rules of this module. Raises BrokenImage."""
    from PIL import Image, ImageOps

    values = range_of(image)
    image = ImageOps.exif_transpose(image)
    if values:
        return Image.fromarray(_eight_bits(image, values)).convert("RGB")
    if image.mode in ("La", "RGBa"):  # colours that are multiplied with their opacity
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("RGBA", "LA", "PA") or _CLEAR in image.info:
        shown = image.convert("RGBA")
        paper = Image.new("RGBA", shown.size, (*PAPER, 255))
        return Image.alpha_composite(paper, shown).convert("RGB")
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB")


def range_of(image: Any) -> str | None:
    """Which of RANGES the values of a Pillow image are in; None where it has 8 bits or less. BrokenImage: in none."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return None
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # Pillow scales PGM to 16 bits
        return "0..65535"
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise BrokenImage("some of its values are not finite")
    low, high = values.min(), values.max()
    for name, (most, _) in RANGES.items():
        if low >= 0 and high <= most and (image.mode == "F" or name != "0..1"):
            return name
    raise BrokenImage(f"values from {low:g} to {high:g}: convert them to 8 bits, or to 0..1 or 0..65535")


def refuse_ranges(ranges: Iterable[tuple[str, str | None]]) -> None:
    """UserError where images (name, see range_of) are in several ranges: what is grey in one would be white in another."""
    examples = {values: name for name, values in ranges if values not in (None, BLACK)}
    if len(examples) > 1:
        shown = "; ".join(f"{name} has values in {values}" for values, name in sorted(examples.items()))
        raise UserError(f"images of more than 8 bits are in several ranges: {shown}", "convert all to 8 bits")


def _eight_bits(image: Any, name: str) -> np.ndarray:
    """uint8 [H, W] of an image with values in a range; the value that a file declares transparent is white."""
    values = np.asarray(image).astype(np.float64)
    scaled = values * RANGES[name][1]
    grey = (np.floor(scaled) if name == "0..65535" else np.rint(scaled)).astype(np.uint8)
    clear = image.info.get(_CLEAR)
    if isinstance(clear, int):
        grey[values == clear] = 255
    return grey


def _from_lab(image: Any) -> Any:
    from PIL import ImageCms

    change = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return ImageCms.applyTransform(image, change)
