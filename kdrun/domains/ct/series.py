"""One CT volume in Hounsfield units: a series of DICOM files, or a NIfTI file, in one orientation, with what is wrong told.

Volumes are [slice, row, column]: slices from the feet to the head, rows from front to back, columns from the patient's right
to the left, as radiologists look at them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data import folders
from kdrun.domains.ct.nifti import read_nifti
from kdrun.optional import needed

AIR = -1024
"""HU where there is nothing, and the least that is kept."""
MOST = 3071
NIFTI = (".nii", ".nii.gz")
MARK = b"DICM"
TOLERANCES = {"PixelSpacing": 1e-4, "ImageOrientationPatient": 1e-4}
"""How far slices of one series may differ: spacing as a share of itself, orientation in each cosine. Scanners write
numbers with 4 to 16 digits; over 512 pixels this is a twentieth of one."""
SQUARE = 0.02
"""Cosine between two axes of a volume (a degree off the right angle) above which it is sheared."""
HOUNSFIELD = frozenset(("", "HU", "US"))
"""RescaleType of values in HU: usually not said, or `unspecified`; others are maps of another quantity."""
STRAIGHT = 0.9  # cosine between an axis of the volume and one of the body, below which it lies askew
TAGS = (
    "SOPClassUID", "SeriesInstanceUID", "PatientID", "Modality", "ImageType", "Rows", "Columns", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "RescaleType", "PhotometricInterpretation",
    "BurnedInAnnotation", "NumberOfFrames", "SamplesPerPixel",
)  # fmt: skip


Choose = Callable[[int], np.ndarray]
"""Positions (int64, ascending) of the slices that are wanted of so many, counted from the feet."""


class Unusable(Exception):
    """A scan that cannot be used; `lines` say why. They hold no name and no number of a patient."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


@dataclass(frozen=True)
class Volume:
    """hu: int16 [D, H, W] in AIR..MOST; spacing: mm between slices, rows and columns; patient, series: as the files say."""

    hu: np.ndarray
    spacing: tuple[float, float, float]
    patient: str | None = None
    series: str | None = None


def read_volume(path: Path, choose: Choose | None = None) -> Volume | None:
    """A DICOM folder (also what lies in folders below it), a NIfTI file, or a single DICOM file.

    choose  positions of slices to read, given how many there are; the others are not decoded. None: all
    Returns None where none are chosen: then only what can be said without pixels was checked.
    Raises Unusable; UserError where a package is missing.
    """
    if path.is_dir():
        return read_series(list(folders.files(path)), choose)
    return _read_nifti(path, choose) if path.name.endswith(NIFTI) else read_series([path], choose)


def _read_nifti(path: Path, choose: Choose | None) -> Volume | None:
    """NIfTI cannot say whether it is CT, so values decide."""
    try:
        array, affine = read_nifti(path)
    except ValueError as error:
        raise Unusable(str(error).removeprefix(path.name).strip() + " (NIfTI)") from None
    if not np.isfinite(array).all():
        raise Unusable("some voxels are not finite")
    if array.min() > -200:
        raise Unusable(
            f"its values are from {array.min():g} to {array.max():g}: in HU, air is about -1000",
            "no CT, or rescaled: it has to be in Hounsfield units",
        )
    hu, spacing = orient(array, affine)
    chosen = np.arange(len(hu)) if choose is None else choose(len(hu))
    return Volume(_int16(hu[chosen]), spacing) if len(chosen) else None


def orient(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """(array [slice, row, column] in the orientation above, spacing in mm) of [i, j, k] with an affine to RAS in mm.

    Only axes change places and directions; no voxel is computed. Raises Unusable where axes lie askew.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise Unusable("its spacing is 0")
    cosines = affine[:3, :3] / spacing
    axes = np.abs(cosines).argmax(axis=0)  # for each array axis, the body's
    if len(set(axes)) < 3 or np.abs(cosines).max(axis=0).min() < STRAIGHT:
        raise Unusable("its slices lie askew in the body: resample it to axial slices first")
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > SQUARE:
        raise Unusable("its axes are not at right angles (tilted gantry): resample it first")
    # From RAS (right to left is -x, front to back is -y, feet to head is +z).
    for body, wanted in ((0, -1), (1, -1), (2, 1)):
        axis = int(np.flatnonzero(axes == body)[0])
        if np.sign(cosines[body, axis]) != wanted:
            array = np.flip(array, axis)
    order = [int(np.flatnonzero(axes == body)[0]) for body in (2, 1, 0)]
    return np.ascontiguousarray(array.transpose(order)), tuple(float(spacing[axis]) for axis in order)


def read_series(files: Sequence[Path], choose: Choose | None = None) -> Volume | None:
    """The volume of one DICOM series; files that hold no image, and scouts, are passed over. As read_volume."""
    kept = [(path, header) for path, header in _headers(files) if _is_image(header)]
    if not kept:
        raise Unusable(*_why_none(files))
    headers = [header for _, header in kept]
    _refuse(headers)
    orientation = np.array(_numbers(headers[0].ImageOrientationPatient, 6))
    right, down = orientation[:3], orientation[3:]  # along a row of pixels, along a column
    if np.abs(np.array([right @ right, down @ down, right @ down]) - (1, 1, 0)).max() > SQUARE:
        raise Unusable("its ImageOrientationPatient is not two directions at right angles")
    normal = np.cross(right, down)
    if normal[np.abs(normal).argmax()] < 0:
        normal = -normal
    positions = np.array([_numbers(header.ImagePositionPatient, 3) for header in headers])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    step = _step(along[order], positions[order], normal)
    between = _numbers(headers[0].PixelSpacing, 2)  # between rows, between columns
    if min(between) <= 0:
        raise Unusable(f"its PixelSpacing is {between[0]:g} and {between[1]:g} mm")
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([normal * step, down * between[0], right * between[1]])
    affine[:2] *= -1  # DICOM counts towards left and back
    axial = np.abs(normal).argmax() == 2
    chosen = np.arange(len(order)) if choose is None else choose(len(order)) if axial else None
    if chosen is None:
        raise Unusable("its slices are not axial")
    if not len(chosen):
        return None
    hu, spacing = orient(np.stack([_slice(*kept[place]) for place in order[chosen]]), affine)
    texts = [_text(headers[0], tag) or None for tag in ("PatientID", "SeriesInstanceUID")]
    return Volume(_int16(hu), spacing, *texts)


def _headers(files: Sequence[Path]) -> list[tuple[Path, Any]]:
    pydicom, found = needed("pydicom", "reading DICOM files needs pydicom"), []
    for path in files:
        if not _maybe_dicom(path):
            continue
        try:
            header = pydicom.dcmread(_content(path), force=True, stop_before_pixels=True, specific_tags=list(TAGS))
        except Exception as error:  # parsers of elements raise errors of their own
            if not _marked(path):
                continue  # it began like DICOM, no more
            raise Unusable(f"one of {len(files)} files is a damaged DICOM file: {type(error).__name__}") from None
        found.append((path, header))
    return found


def _marked(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(132)
    return MARK in (head[128:], head[:4])


def _maybe_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM, or begins as a data set does that was written without it."""
    if _marked(path):
        return True
    with open(path, "rb") as file:
        head = file.read(132)
    # Group 0002 or 0008, little endian, and an element of it with a kind of two capital letters or a plausible length.
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or len(head) < 132:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or int.from_bytes(head[4:8], "little") < 1024


def _content(path: Path) -> Path | BytesIO:
    """What pydicom can read: a file that begins with the mark gets the 128 bytes before it that it lacks."""
    with open(path, "rb") as file:
        if file.read(4) != MARK:
            return path
        return BytesIO(bytes(128) + MARK + file.read())


def _why_none(files: Sequence[Path]) -> list[str]:
    if not files:
        return ["an empty folder"]
    marked = sum(map(_maybe_dicom, files))
    if marked:
        return [f"{len(files)} files, and none is a DICOM image: {marked} are DICOM without pixels, or scouts"]
    return [
        f"{len(files)} files, and none is a DICOM image ({folders.by_extension(files)})",
        "DICOM has `DICM` at byte 128, or begins with an element of group 0002 or 0008",
    ]


def _is_image(header: Any) -> bool:
    return "Rows" in header and "LOCALIZER" not in (header.get("ImageType") or ())


def _refuse(headers: list[Any]) -> None:
    """Raise Unusable for what cannot be one CT volume."""
    other = sorted({_text(header, "Modality").upper() for header in headers} - {"CT"})
    if other:
        raise Unusable(f"its modality is {', '.join(word or 'not said' for word in other)}, not CT")
    _one(headers, "SeriesInstanceUID", "series", "keep one in its folder, or name it in the column path")
    _one(headers, "PatientID", "patients", "a folder holds one patient")
    # A mixture without identifiers shows in its geometry.
    for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        absent = sum(header.get(tag) is None for header in headers)
        if absent:
            raise Unusable(f"{absent} of {len(headers)} slices do not say {tag}")
        _one(headers, tag, "series", f"slices differ in {tag}")
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise Unusable("enhanced (multi-frame) DICOM is not read: convert it to single slices or NIfTI")
    if any(int(header.get("SamplesPerPixel") or 1) > 1 for header in headers):
        raise Unusable("its pixels are coloured: a picture of a scan, not a scan")
    inverted = sum(_text(header, "PhotometricInterpretation").upper() == "MONOCHROME1" for header in headers)
    if inverted:
        raise Unusable(f"{inverted} of {len(headers)} slices are MONOCHROME1 (inverted): for display, not in HU")
    if any(_text(header, "BurnedInAnnotation").upper() == "YES" for header in headers):
        raise Unusable("text is burnt into its pixels (BurnedInAnnotation is YES)")
    absent = sum(_rescaling(header) is None for header in headers)
    if absent:
        raise Unusable(
            f"{absent} of {len(headers)} slices have no RescaleSlope and RescaleIntercept (numbers, the slope above 0), so their HU are unknown"
        )
    units = sorted({_text(header, "RescaleType").upper() for header in headers} - HOUNSFIELD)
    if units:
        raise Unusable(f"its values are not in HU: RescaleType is {', '.join(units)}")
    if sum(header.get("ImagePositionPatient") is None for header in headers):
        raise Unusable("some slices do not say ImagePositionPatient, so their order is unknown")
    if len(headers) < 2:
        raise Unusable("it has one slice only")


def _rescaling(header: Any) -> tuple[float, float] | None:
    """(slope, intercept) from stored values to HU; None where they are absent or cannot be."""
    try:
        slope, intercept = float(header.get("RescaleSlope")), float(header.get("RescaleIntercept"))
    except (TypeError, ValueError):
        return None
    return (slope, intercept) if 0 < slope < np.inf and np.isfinite(intercept) else None


def _one(headers: list[Any], tag: str, called: str, hint: str) -> None:
    """Raise Unusable where slices differ in a tag, numbers beyond TOLERANCES."""
    values = [_numbers(header[tag].value) if tag in TOLERANCES else _text(header, tag) for header in headers]
    kinds: list[list[Any]] = []  # [a value, slices that have it]
    for value in values:
        kind = next((kind for kind in kinds if _same(kind[0], value, TOLERANCES.get(tag))), None)
        if kind is None:
            kinds.append([value, 1])
        else:
            kind[1] += 1
    if len(kinds) > 1:
        counts = " + ".join(map(str, sorted((count for _, count in kinds), reverse=True)[:4]))
        raise Unusable(f"mixed: {len(kinds)} {called} ({counts}{' + ...' if len(kinds) > 4 else ''} slices): {hint}")


def _same(first: Any, second: Any, tolerance: float | None) -> bool:
    if tolerance is None:
        return first == second
    scale = max(1.0, *first) if len(first) != 2 else max(first)  # cosines; spacings
    return len(first) == len(second) and bool(np.abs(np.subtract(first, second)).max() <= tolerance * scale)


def _numbers(value: Any, count: int | None = None) -> list[float]:
    """So many numbers (None: any) of an element. Raises Unusable where it is something else."""
    try:
        numbers = [float(part) for part in value]
    except (TypeError, ValueError):
        raise Unusable("a slice has something else than numbers where its geometry should be") from None
    if not np.isfinite(numbers).all():
        raise Unusable("a slice has numbers that are not finite where its geometry should be")
    if count not in (None, len(numbers)):
        raise Unusable(f"a slice has {len(numbers)} numbers for its geometry where {count} should be")
    return numbers


def _text(header: Any, tag: str) -> str:
    return str(header.get(tag) or "").strip(" \0")


def _step(along: np.ndarray, positions: np.ndarray, normal: np.ndarray) -> float:
    """mm between slices in order. Raises Unusable where slices are missing, doubled or tilted."""
    steps = np.diff(along)
    doubled = int((steps < 1e-3).sum())
    if doubled:
        raise Unusable(f"{doubled} slices lie where another lies: two series, or files that are there twice")
    step = float(np.median(steps))
    missing = np.flatnonzero(steps > 1.5 * step)
    if len(missing):
        count = int(np.rint(steps[missing] / step - 1).sum())
        first = missing[0]
        raise Unusable(
            f"{count} slices are missing: {steps[first]:g} mm between two slices, {step:g} mm elsewhere"
            f" (after slice {first + 1} of {len(along)})"
        )
    if (np.abs(steps - step) > 0.1 * step).any():
        raise Unusable(f"its slices are unevenly spaced: {steps.min():g} to {steps.max():g} mm")
    sideways = positions - positions[0] - np.outer(along - along[0], normal)
    if np.linalg.norm(sideways, axis=1).max() > step:
        raise Unusable("its slices are shifted against each other (tilted gantry)")
    return step


def _slice(path: Path, header: Any) -> np.ndarray:
    """float64 [rows, columns] in HU of one file."""
    import pydicom

    try:
        whole = pydicom.dcmread(_content(path), force=True)
        if "TransferSyntaxUID" not in whole.file_meta:  # without a header, pixels are taken for uncompressed
            implicit = pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian
            whole.file_meta.TransferSyntaxUID = implicit[0] if whole.original_encoding[0] else implicit[1]
        pixels = whole.pixel_array
    except Exception as error:  # each decoder has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(path.name, "it")
        raise Unusable(f"the pixels of a slice cannot be decoded: {reason[:120]}") from None
    slope, intercept = _rescaling(header)
    hu = pixels * slope + intercept
    hu[_padding(whole, pixels)] = AIR
    return hu


def _padding(whole: Any, pixels: np.ndarray) -> np.ndarray:
    """bool [rows, columns]: pixels outside of what was scanned, by PixelPaddingValue (and PixelPaddingRangeLimit).

    The value may be written signed or not, whatever the pixels are, so bits are compared.
    """
    limits = [whole.get(tag) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    limits = [int.from_bytes(value, "little") if isinstance(value, bytes) and value else value for value in limits]
    if not isinstance(limits[0], int):
        return np.zeros(pixels.shape, bool)
    bits, signed = int(whole.BitsAllocated), bool(whole.get("PixelRepresentation"))

    def as_stored(values: Any) -> Any:
        """Whole numbers of `bits` bits, signed as the pixels are."""
        values = values & ((1 << bits) - 1)
        return values - ((values >> (bits - 1)) << bits) if signed else values

    first = as_stored(limits[0])
    last = as_stored(limits[1]) if isinstance(limits[1], int) else first
    stored = as_stored(pixels.astype(np.int64))
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _int16(hu: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(hu, AIR, MOST)).astype(np.int16)
