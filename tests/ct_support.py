"""CT files made up for tests: NIfTI volumes and DICOM series, written byte by byte, so that no reader checks itself."""

import gzip
import struct
from pathlib import Path

import numpy as np

TYPES = {"uint8": 2, "int16": 4, "int32": 8, "float32": 16}
UID = "1.2.826.0.1.3680043.8.498."


def write_nifti(path: Path, array, affine, *, slope=1.0, intercept=0.0, order="<", quaternion=None, units=2):
    """A NIfTI-1 file of an array [i, j, k]. quaternion: (b, c, d, x, y, z, sign of the third axis) in place of the affine."""
    header = bytearray(352)
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    struct.pack_into(order + "i", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, 3, *array.shape, 1, 1, 1, 1)
    struct.pack_into(order + "2h", header, 70, TYPES[array.dtype.name], array.dtype.itemsize * 8)
    struct.pack_into(order + "8f", header, 76, quaternion[6] if quaternion else 1, *spacing, 0, 0, 0, 0)
    struct.pack_into(order + "3f", header, 108, 352, slope, intercept)
    header[123] = units
    struct.pack_into(order + "2h", header, 252, 1 if quaternion else 0, 0 if quaternion else 2)
    if quaternion:
        struct.pack_into(order + "6f", header, 256, *quaternion[:6])
    struct.pack_into(order + "12f", header, 280, *np.asarray(affine)[:3].reshape(-1))
    header[344:348] = b"n+1\0"
    content = bytes(header) + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    path.write_bytes(gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)


def element(group: int, number: int, kind: str, value) -> bytes:
    """One DICOM element in explicit little endian."""
    if isinstance(value, int):
        content = struct.pack("<H" if value >= 0 else "<h", value)
    elif isinstance(value, bytes):
        content = value
    else:
        content = ("\\".join(map(str, value)) if isinstance(value, list | tuple) else str(value)).encode()
    content += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(content) % 2)
    length = struct.pack("<2xI", len(content)) if kind in ("OB", "OW") else struct.pack("<H", len(content))
    return struct.pack("<2H", group, number) + kind.encode() + length + content


def dicom(pixels, place, number, **changes) -> bytes:
    """A file of one slice. changes: values of tags by name; None leaves the tag out."""
    tags = {
        "image_type": (0x0008, 0x0008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"),
        "sop_class": (0x0008, 0x0016, "UI", "1.2.840.10008.5.1.4.1.1.2"),
        "sop": (0x0008, 0x0018, "UI", f"{UID}1.{number + 1}"),
        "modality": (0x0008, 0x0060, "CS", "CT"),
        "patient_name": (0x0010, 0x0010, "PN", "Doe^Jane"),
        "patient": (0x0010, 0x0020, "LO", "JANE-42"),
        "series": (0x0020, 0x000E, "UI", f"{UID}7"),
        "instance": (0x0020, 0x0013, "IS", str(number + 1)),
        "position": (0x0020, 0x0032, "DS", [f"{value:g}" for value in place]),
        "orientation": (0x0020, 0x0037, "DS", "1\\0\\0\\0\\1\\0"),
        "samples": (0x0028, 0x0002, "US", 1),
        "photometric": (0x0028, 0x0004, "CS", "MONOCHROME2"),
        "rows": (0x0028, 0x0010, "US", pixels.shape[0]),
        "columns": (0x0028, 0x0011, "US", pixels.shape[1]),
        "spacing": (0x0028, 0x0030, "DS", "2\\3"),
        "allocated": (0x0028, 0x0100, "US", 16),
        "stored": (0x0028, 0x0101, "US", 16),
        "high": (0x0028, 0x0102, "US", 15),
        "representation": (0x0028, 0x0103, "US", 0),
        "padding": (0x0028, 0x0120, "US", None),
        "padding_limit": (0x0028, 0x0121, "US", None),
        "burned_in": (0x0028, 0x0301, "CS", None),
        "intercept": (0x0028, 0x1052, "DS", "-1024"),
        "slope": (0x0028, 0x1053, "DS", "1"),
        "rescale_type": (0x0028, 0x1054, "LO", None),
        "pixels": (0x7FE0, 0x0010, "OW", pixels.astype("<u2").tobytes()),
    }
    values = {name: changes.get(name, given[3]) for name, given in tags.items()}
    body = b"".join(element(*tags[name][:3], value) for name, value in values.items() if value is not None)
    meta = element(0x0002, 0x0001, "OB", b"\0\1") + element(0x0002, 0x0002, "UI", "1.2.840.10008.5.1.4.1.1.2")
    meta += element(0x0002, 0x0003, "UI", f"{UID}1") + element(0x0002, 0x0010, "UI", "1.2.840.10008.1.2.1")
    meta += element(0x0002, 0x0012, "UI", UID + "9")
    length = struct.pack("<2H", 0x0002, 0x0000) + b"UL" + struct.pack("<HI", 4, len(meta))
    return b"\0" * 128 + b"DICM" + length + meta + body


def write_series(folder: Path, hu, *, start=-50.0, step=5.0, skip=(), each=lambda number: {}, **changes):
    """A series of hu [slice, row, column], slices from the feet, in an order of names that says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(hu):
        if number not in skip:
            name = f"IM{(number * 7919) % 1009:04d}"
            content = dicom(plane + 1024, (-30, -40, start + step * number), number, **{**changes, **each(number)})
            (folder / name).write_bytes(content)


def body(depth=12, height=10, width=14, seed=0):
    """int16 [depth, height, width] of HU in which no two slices and no two axes are alike."""
    generator = np.random.default_rng(seed)
    hu = generator.integers(-1000, 400, (depth, height, width)).astype(np.int16)
    hu[:, 0, 0] = np.arange(depth) * 10 - 900
    return hu
