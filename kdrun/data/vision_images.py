"""One image file to a square of RGB pixels. No torch; Pillow when it is needed."""

from __future__ import annotations

import os
import warnings
from typing import IO, Any

import numpy as np

MOST_PIXELS = 100_000_000
"""Larger images are taken for decompression bombs: 300 MB of pixels each."""
PAPER = (255, 255, 255)
"""What is behind transparent pixels."""
EDGE = (127, 127, 127)
"""What fills an image up to a square: about the mean of photographs, so towers see it as nothing."""


class BrokenImage(ValueError):
    """An image that cannot be used; the message says why."""


def read_image(source: str | os.PathLike[str] | IO[bytes] | Any, size: int) -> np.ndarray:
    """uint8 [3, size, size]: the whole image, upright, transparent parts on white, filled up to a square, resized.

    source: a path, an open file or a Pillow image. Raises BrokenImage.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's word on large images and odd metadata: MOST_PIXELS decides
            if isinstance(source, Image.Image):
                return _square(source, size)
            with Image.open(source) as opened:
                return _square(opened, size)
    except FileNotFoundError:
        raise BrokenImage("there is no such file") from None
    except BrokenImage:
        raise
    except UnidentifiedImageError:  # its own words name the object that was read, by its address in memory
        raise BrokenImage("no image, or of a kind that Pillow does not know") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        text = str(error).splitlines()[0] if str(error) else ""
        raise BrokenImage(f"{type(error).__name__}: {text}"[:160]) from None


def _square(image: Any, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BrokenImage(f"{width}x{height} pixels, more than {MOST_PIXELS:,}")
    if min(width, height) < 1:
        raise BrokenImage("no pixels")
    if image.format == "JPEG":
        # Decoded at half, a quarter or an eighth where that is still twice the size: most of the work is left out.
        image.draft(None, (_scaled(width, width, height, 2 * size), _scaled(height, width, height, 2 * size)))
    image = _rgb(ImageOps.exif_transpose(image))
    longest = max(image.size)
    scaled = tuple(max(round(side * size / longest), 1) for side in image.size)
    if image.size != scaled:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    if scaled != (size, size):
        canvas = Image.new("RGB", (size, size), EDGE)
        canvas.paste(image, ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
        image = canvas
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def _scaled(side: int, width: int, height: int, longest: int) -> int:
    return max(side * longest // max(width, height), 1)


def _rgb(image: Any) -> Any:
    """Any mode as RGB."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode))
    if image.mode == "P" and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        shown = image.convert("RGBA")
        paper = Image.new("RGBA", shown.size, (*PAPER, 255))
        return Image.alpha_composite(paper, shown).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of 16 bits, or of 32 of which 16 are used, in 8; floats in 0..1 or 0..255. Pillow would clip them."""
    if mode == "F":
        values = np.nan_to_num(values.astype(np.float64))
        return np.clip(values * 255 if values.max(initial=0) <= 1 else values, 0, 255).round().astype(np.uint8)
    values = values.astype(np.int64)
    if mode == "I" and values.max(initial=0) < 256:
        return np.clip(values, 0, 255).astype(np.uint8)
    return (np.clip(values, 0, 65535) >> 8).astype(np.uint8)
