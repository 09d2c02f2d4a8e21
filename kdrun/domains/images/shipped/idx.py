"""The idx format of MNIST and its relatives: magic (type, number of dimensions), big-endian sizes, values."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """uint8 array of a file of unsigned bytes, memory-mapped; read into memory where it is gzipped.

    Raises ValueError for another type of values or a length that does not fit the sizes.
    """
    compressed = path.suffix == ".gz"
    content = gzip.decompress(path.read_bytes()) if compressed else np.memmap(path, np.uint8, mode="c")
    data = np.frombuffer(content, np.uint8) if compressed else content
    if len(data) < 4 or data[0] != 0 or data[1] != 0 or data[2] != UNSIGNED_BYTE:
        raise ValueError(f"{path} is no idx file of unsigned bytes")
    dimensions = int(data[3])
    start = 4 + 4 * dimensions
    sizes = tuple(int(size) for size in data[4:start].view(">u4"))
    if len(data) - start != int(np.prod(sizes)):
        raise ValueError(f"{path} has {len(data) - start} values, its sizes {sizes} need {int(np.prod(sizes))}")
    return data[start:].reshape(sizes)
