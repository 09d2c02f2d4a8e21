"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships (UCI Optical Recognition, BSD-3 / CC BY 4.0).

Read from the installed package's file: importing scikit-learn takes over a second and is not needed for it.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kdrun.data.csv_integers import csv_integers
from kdrun.data.source import TRAIN
from kdrun.domains.images.source import Images
from kdrun.problems import UserError

TARGETS = ("digits",)

LEVELS = 16  # pixels are counts 0..16


def digits(root: str | Path | None = None, *, cache: str | Path | None = None) -> Images:
    """uint8 [1797, 1, 8, 8]: the counts 0..16 as round(count * 255 / 16), which is one-to-one.

    root: folder with `digits.csv.gz` instead of scikit-learn's own.
    """
    folder = Path(root) if root is not None else _installed()
    path = folder / "digits.csv.gz"
    if not path.is_file():
        raise UserError(f"data=digits needs {path}, which is not there; it comes with scikit-learn: reinstall it")
    text = gzip.decompress(path.read_bytes())
    try:
        table = csv_integers(text, 65)
    except ValueError as error:
        raise UserError(f"{path}: {error}", "expected 64 counts and the label in each line, no header") from None
    counts, labels = table[:, :64], table[:, 64].copy()
    pixels = np.rint(counts * (255 / LEVELS)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Images(
        x=pixels,
        y=labels,
        split=np.full(len(labels), TRAIN, np.int8),
        ids=np.arange(len(labels)),
        classes=tuple(str(digit) for digit in range(10)),
        name="digits",
        source_hash=hashlib.sha256(text).hexdigest(),
        determined=True,
    )


def _installed() -> Path:
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise UserError("data=digits needs scikit-learn, which is not installed: pip install scikit-learn")
    return Path(next(iter(found.submodule_search_locations)), "datasets", "data")
