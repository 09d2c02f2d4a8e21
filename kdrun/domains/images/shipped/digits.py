"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships (UCI Optical Recognition, BSD-3 / CC BY 4.0)."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdrun.data.csv_integers import csv_integers
from kdrun.data.folders import shipped
from kdrun.data.source import TRAIN
from kdrun.domains.images.source import Images
from kdrun.problems import UserError

TARGETS = ("digits",)

LEVELS = 16  # pixels are counts 0..16


def digits(root: str | Path | None = None, *, cache: str | Path | None = None) -> Images:
    """uint8 [1797, 1, 8, 8]: the counts 0..16 as round(count * 255 / 16), which is one-to-one.

    root: folder with `digits.csv.gz` instead of scikit-learn's own.
    """
    (path,) = shipped("digits", root, ["digits.csv.gz"])
    text = gzip.decompress(path.read_bytes())
    return labelled("digits", text, path, 8, lambda counts: np.rint(counts * (255 / LEVELS)))


def labelled(name: str, text: bytes, path: Path, side: int, pixels: Callable[[np.ndarray], np.ndarray]) -> Images:
    """Digits from a table with the values of side * side pixels and the label in each line. UserError for another table."""
    try:
        table = csv_integers(text, side**2 + 1)
    except ValueError as error:
        raise UserError(
            f"{path}: {error}", f"expected {side**2} pixels and the label in each line, no header"
        ) from None
    return Images(
        x=pixels(table[:, :-1]).astype(np.uint8).reshape(-1, 1, side, side),
        y=table[:, -1].copy(),
        split=np.full(len(table), TRAIN, np.int8),
        ids=np.arange(len(table)),
        classes=tuple(str(digit) for digit in range(10)),
        name=name,
        source_hash=hashlib.sha256(text).hexdigest(),
        determined=True,
    )
