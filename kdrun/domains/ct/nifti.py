"""Volumes in NIfTI-1 and NIfTI-2 files (.nii, .nii.gz), read with numpy alone."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip

_MILLIMETRES = {1: 1e3, 3: 1e-3}
"""Of the units that a file may be in besides: metres, micrometres."""


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(array [i, j, k] with slope and intercept applied, affine float64 [4, 4] from indices to mm in RAS).

    The array keeps its type where there is nothing to apply. Raises ValueError naming the file where it is damaged, or
    holds something else than one volume of numbers.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path.name} is a damaged gzip file") from error
    try:
        return _parse(content)
    except (ValueError, struct.error) as error:
        raise ValueError(f"{path.name} is no whole NIfTI volume: {error}") from None


def _parse(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    sizes = {order: struct.unpack_from(f"{order}i", content)[0] for order in "<>"}
    order = next((order for order, size in sizes.items() if size in (348, 540)), None)
    if order is None:
        raise ValueError("it does not begin with the length of a header")
    second = sizes[order] == 540

    def at(first_offset: int, second_offset: int, first_kind: str, second_kind: str) -> tuple:
        offset, kind = (second_offset, second_kind) if second else (first_offset, first_kind)
        return struct.unpack_from(order + kind, content, offset)

    if not content[(4 if second else 344) :].startswith((b"n+1\0", b"n+2\0")):
        raise ValueError("its voxels are in another file (.hdr and .img)")
    dims = at(40, 16, "8h", "8q")
    shape = tuple(dims[1 : dims[0] + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"it is of shape {shape}, not one volume")
    (code,) = at(70, 12, "h", "h")
    if code not in _TYPES:
        raise ValueError(f"it holds no plain numbers (data type {code})")
    zooms = at(76, 104, "8f", "8d")
    (offset,) = at(108, 168, "f", "q")
    slope, intercept = at(112, 176, "2f", "2d")
    dtype = np.dtype(order + _TYPES[code])
    count = int(np.prod(shape))
    if len(content) < int(offset) + count * dtype.itemsize:
        raise ValueError("it ends too early")
    array = np.frombuffer(content, dtype, count, int(offset)).reshape(shape, order="F")
    array = array.astype(dtype.newbyteorder("="), copy=False)
    if np.isfinite(slope) and slope != 0 and (slope, intercept) != (1, 0):
        array = array * np.float64(slope) + np.float64(intercept)
    quaternion, rows = at(252, 344, "2h", "2i"), None
    if quaternion[1] > 0:
        rows = np.array(at(280, 400, "12f", "12d")).reshape(3, 4)
    elif quaternion[0] > 0:
        rows = _from_quaternion(*at(256, 352, "6f", "6d"), zooms)
    if rows is None:
        raise ValueError("it says nothing of its orientation (neither sform nor qform)")
    return array, np.vstack([rows * _MILLIMETRES.get(at(123, 500, "b", "i")[0] & 7, 1.0), [0, 0, 0, 1]])


def _from_quaternion(b: float, c: float, d: float, x: float, y: float, z: float, zooms: tuple) -> np.ndarray:
    """[3, 4] of the unit quaternion whose first part is left out of the file; zooms[0] is the sign of the third axis."""
    a = max(1 - (b * b + c * c + d * d), 0) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    scale = np.array(zooms[1:4]) * (1, 1, -1 if zooms[0] < 0 else 1)
    return np.column_stack([rotation * scale, (x, y, z)])
