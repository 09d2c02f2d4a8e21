"""One image file to a square of RGB pixels. No torch; Pillow when it is needed."""

from __future__ import annotations

import os
from typing import IO, Any

import numpy as np

from kdrun.data.pictures import opened, upright

EDGE = (127, 127, 127)
"""What fills an image up to a square: about the mean of photographs, so towers see it as nothing."""


def read_image(source: str | os.PathLike[str] | IO[bytes] | Any, size: int) -> np.ndarray:
    """uint8 [3, size, size]: the whole image as `pictures.upright` shows it, filled up to a square, resized.

    source: a path, an open file or a Pillow image. Raises BrokenImage.
    """
    with opened(source) as image:
        return _square(image, size)


def _square(image: Any, size: int) -> np.ndarray:
    from PIL import Image

    width, height = image.size
    if image.format == "JPEG":
        # Decoded at half, a quarter or an eighth where that is still twice the size: most of the work is left out.
        image.draft(None, (_scaled(width, width, height, 2 * size), _scaled(height, width, height, 2 * size)))
    image = upright(image)
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
