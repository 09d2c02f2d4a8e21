"""A cohort of one's own: CT scans as DICOM series or NIfTI files, with labels.csv, cut once into a memory-mapped array.

Of every scan the chosen slices are windowed and then resized, so that all windows of a patient show the same voxels. No
identifier of a patient is kept or reported: see ct_labels.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.checksums import checksum_of
from kdrun.data import folders
from kdrun.data.decoded import RAW, decoded, digests, keep_rows
from kdrun.data.fetch import default_cache
from kdrun.domains.ct.labels import SHOWN, ScanRow, check_places, code, read_labels, scans_without_labels, secret
from kdrun.domains.ct.resize import fit, resize_planes, weights
from kdrun.domains.ct.series import AIR, NIFTI, Unusable, Volume, read_volume
from kdrun.domains.ct.source import Scans
from kdrun.domains.ct.windows import Window, windows
from kdrun.files import new_array
from kdrun.problems import Problems, UserError

TARGETS = ("ct_folder",)

FORMAT = 2  # of what is cached; raised when volumes come out differently
INCOMPLETE = ("stop", "leave_out")


def ct_folder(
    root: str | Path | None = None,
    labels: str | None = "labels.csv",
    window: str | list[Any] = "all",
    slices: int = 32,
    size: int = 128,
    fraction: list[float] = (0.4, 0.9),
    spacing: float | None = None,
    incomplete: str = "stop",
    alike: str = "stop",
    *,
    cache: str | Path | None = None,
) -> Scans:
    """uint8 [N, V, slices, size, size], one channel for every window; an id is a scan's place in sorted labels.

    root        folder with PATIENT/ (DICOM files, also in folders below), PATIENT.nii.gz or PATIENT.nii
    labels      file with the columns patient and label, and if there are such: split (train, val, test), path (below root); null: all
                scans of the folder, without labels, as `data.unlabelled=FOLDER` reads them
    window      name, [level,width] in HU, a list of these, or all (see ct_windows): channels in that order
    slices      of each scan, evenly spread over `fraction`
    size        pixels of a side after resizing
    fraction    the part of the scan that slices come from; 0 is the end at the feet, 1 that at the head
    spacing     mm between pixels: then the middle of every slice is kept, with air around it where it is smaller; null: the
                whole slice is resized
    incomplete  stop: labels without scans, scans without labels and scans that cannot be used are an error;
                leave_out: they are left out, and so are lines without a label
    alike       what is done with labels that differ only in spelling (Benign, benign; 0, 0.0): stop is an error; merge takes
                them for one; keep takes them for several

    Raises UserError or ConfigProblems naming lines of the labels and codes of patients.
    """
    if root is None:
        raise UserError("data=ct_folder needs data.root=FOLDER, with one folder or NIfTI file for each patient")
    root = folders.existing(root)
    chosen = windows(window)
    low, high = _checked(slices, size, fraction, spacing, incomplete)
    cache = Path(cache or default_cache())
    key = secret(cache)
    if labels is None:
        table = scans_without_labels(root, key)
    else:
        table = read_labels(root / labels, root, key, incomplete == "leave_out", alike)
    rows, lines = check_places(table.rows, root)
    if lines and incomplete == "stop":
        raise UserError(*lines, "to go on with the others: data.incomplete=leave_out")
    if not rows:
        raise UserError(f"data.root={root} holds none of the {len(table.rows)} scans of {labels}")
    _check_patients([row.patient for row in rows], rows, table.split)
    contents = _contents(root, rows, cache)
    _refuse_copies(rows, contents)
    shape = {"slices": slices, "size": size, "fraction": [low, high], "spacing": spacing}
    about_windows = [[one.level, one.width] for one in chosen]
    folder = decoded(
        cache,
        "ct_folder",
        [FORMAT, contents, about_windows, shape, incomplete],
        lambda target: _cut(rows, chosen, shape, incomplete, key, target),
    )
    about = json.loads((folder / "about.json").read_text())
    x = np.load(folder / "pixels.npy", mmap_mode="c")
    readable = about["readable"]
    kept = [rows[place] for place in readable]
    persons = _persons(kept, about["persons"])
    _check_patients(persons, kept, table.split)
    numbers = {row.line: place for place, row in enumerate(table.rows)}
    classes = tuple(sorted({row.label for row in table.rows}))
    position = {label: place for place, label in enumerate(classes)}
    listing = "".join(f"{content}  {row.label}\n" for content, row in zip(contents, rows, strict=True))
    return Scans(
        x=x,
        y=np.array([position[row.label] for row in kept], np.int64),
        split=np.array([row.part for row in kept], np.int8),
        ids=np.array([numbers[row.line] for row in kept], np.int64),
        classes=classes,
        name="ct_folder",
        source_hash=hashlib.sha256(listing.encode()).hexdigest(),
        unreadable=tuple(row.patient for place, row in enumerate(rows) if place not in set(readable)),
        views=tuple(one.name for one in chosen),
        groups=tuple(persons),
        notes=(*table.notes, *([] if labels is None else _unread(root, root / labels))),
        decoded=checksum_of(folder / "pixels.npy"),
    )


def _checked(slices: Any, size: Any, fraction: Any, spacing: Any, incomplete: Any) -> tuple[float, float]:
    for name, value in (("slices", slices), ("size", size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"data.{name}={value}: a whole number, at least 1")
    if spacing is not None and not spacing > 0:
        raise UserError(f"data.spacing={spacing}: millimetres above 0, or null")
    if incomplete not in INCOMPLETE:
        raise UserError(f"data.incomplete={incomplete}: expected one of {', '.join(INCOMPLETE)}")
    if len(fraction) != 2 or not 0 <= fraction[0] < fraction[1] <= 1:
        raise UserError(f"data.fraction={list(fraction)}: two numbers, 0 <= from < to <= 1; [0,1] is the whole scan")
    return float(fraction[0]), float(fraction[1])


def _check_patients(persons: list[str], rows: list[ScanRow], with_split: bool) -> None:
    """Raise UserError where a patient is in two splits, or might come to be."""
    parts: dict[str, set[int]] = {}
    for person, row in zip(persons, rows, strict=True):
        parts.setdefault(person, set()).add(row.part)
    shared = sorted(person for person, found in parts.items() if len(found) > 1)
    if shared:
        raise UserError(
            f"{len(shared)} patients are in two splits: {', '.join(shared[:SHOWN])}",
            "in labels.csv, all scans of a patient belong to one split",
        )
    several = [person for person, count in Counter(persons).items() if count > 1]
    if several and not with_split:
        raise UserError(
            f"{len(several)} patients have several scans: {', '.join(several[:SHOWN])}",
            "labels.csv needs a column split (train, val, test) that keeps the scans of a patient together",
        )


def _refuse_copies(rows: list[ScanRow], contents: list[str]) -> None:
    same: dict[str, list[ScanRow]] = {}
    for row, content in zip(rows, contents, strict=True):
        same.setdefault(content, []).append(row)
    copies = [found for found in same.values() if len(found) > 1]
    if copies:
        shown = "; ".join(" and ".join(map(str, found)) for found in copies[:SHOWN])
        raise UserError(f"{len(copies)} scans are there under several names: {shown}", "name each scan once")


def _persons(rows: list[ScanRow], inside: list[str | None]) -> list[str]:
    """Who each scan is of. One PatientID inside the files of two patients of labels.csv makes them one, but not an
    identifier that all share: then it was made anonymous with the same word."""
    if len(set(inside)) == 1 and len(rows) > 2:
        inside = [None] * len(rows)
    first: dict[str, str] = {}
    return [
        row.patient if person is None else first.setdefault(person, row.patient)
        for row, person in zip(rows, inside, strict=True)
    ]


def _contents(root: Path, rows: list[ScanRow], cache: Path) -> list[str]:
    """sha256 over the files of every scan."""
    inside = [list(folders.files(row.place)) if row.place.is_dir() else [row.place] for row in rows]
    of_files = iter(digests(root, [path for paths in inside for path in paths], cache))
    return [hashlib.sha256(b"".join(bytes.fromhex(next(of_files)) for _ in paths)).hexdigest() for paths in inside]


def _unread(root: Path, labels: Path) -> list[str]:
    """A note on files beside the scans that are neither scans nor the labels."""
    inside = [path for path in sorted(root.iterdir()) if path.is_file() and folders.visible(path.name)]
    other = [path for path in inside if not path.name.endswith(NIFTI) and path.resolve() != labels.resolve()]
    return [f"files that are not read: {folders.by_extension(other)}"] if other else []


def _cut(
    rows: list[ScanRow], chosen: tuple[Window, ...], shape: dict[str, Any], incomplete: str, key: bytes, target: Path
) -> None:
    """Write pixels.npy, uint8 [readable, V, slices, size, size], and about.json."""
    count, (low, high) = shape["slices"], shape["fraction"]

    def choose(total: int) -> np.ndarray:
        return uniform(total, count, low, high)

    usable, problems = _usable(rows, choose)
    if problems.found and incomplete == "stop":
        problems.add("to go on with the others: data.incomplete=leave_out")
        problems.stop()
    dims = (len(chosen), count, shape["size"], shape["size"])
    raw = new_array(target / RAW, np.uint8, (max(len(usable), 1), *dims))
    readable, persons = [], []
    for place in usable:
        try:
            volume = read_volume(rows[place].place, choose)
        except Unusable as error:
            problems.add(f"{rows[place]}: {error.lines[0]}", *error.lines[1:])
            continue
        raw[len(readable)] = cut(volume, chosen, shape["size"], shape["spacing"])
        readable.append(place)
        persons.append(code(f"inside {volume.patient}", key) if volume.patient else None)
    if problems.found and incomplete == "stop":
        problems.add("to go on with the others: data.incomplete=leave_out")
        problems.stop()
    if not readable:
        raise UserError(f"none of {len(rows)} scans can be used", *problems.found[0])
    keep_rows(raw, np.arange(len(readable)), target, {"readable": readable, "persons": persons})


def _usable(rows: list[ScanRow], choose: Any) -> tuple[list[int], Problems]:
    """Places of scans in which nothing wrong is found before pixels are decoded, and all that is wrong with the others."""
    usable, problems = [], Problems()

    def none(total: int) -> np.ndarray:
        return choose(total)[:0]

    for place, row in enumerate(rows):
        try:
            if row.place.is_dir():  # headers alone; a NIfTI file would have to be read twice
                read_volume(row.place, none)
            usable.append(place)
        except Unusable as error:
            problems.add(f"{row}: {error.lines[0]}", *error.lines[1:])
    return usable, problems


def uniform(total: int, count: int, low: float, high: float) -> np.ndarray:
    """int64 [count]: positions of slices, evenly spread from `low` to `high` of `total`. Raises Unusable for too few."""
    first, last = low * (total - 1), high * (total - 1)
    if last - first + 1 < count:
        raise Unusable(
            f"{int(last - first + 1)} of its {total} slices lie in data.fraction=[{low:g},{high:g}], and {count} are wanted",
            "fewer with data.slices, more with data.fraction",
        )
    middle = (first + last) / 2
    spread = np.linspace(first, last, count) if count > 1 else np.array([middle])
    return np.floor(spread + 0.5).astype(np.int64)


def cut(volume: Volume, chosen: tuple[Window, ...], size: int, spacing: float | None) -> np.ndarray:
    """uint8 [V, slices, size, size]: every window of a volume, then resized; 0..255 for 0..1."""
    height, width = volume.hu.shape[1:]
    if spacing is None:
        targets, scales = (size, size), (None, None)
    else:
        scales = tuple(spacing / own for own in volume.spacing[1:])
        targets = tuple(max(round(side / scale), 1) for side, scale in zip((height, width), scales, strict=True))
    by_rows = weights(height, targets[0], scales[0])
    by_columns = weights(width, targets[1], scales[1])
    out = np.empty((len(chosen), len(volume.hu), size, size), np.uint8)
    for place, one in enumerate(chosen):
        air = float(one.apply(np.array([AIR]))[0])
        for number, plane in enumerate(volume.hu):
            resized = fit(resize_planes(one.apply(plane), by_rows, by_columns), size, size, air)
            out[place, number] = np.rint(np.clip(resized, 0, 1) * 255).astype(np.uint8)
    return out
