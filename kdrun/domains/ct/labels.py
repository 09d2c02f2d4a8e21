"""labels.csv of a cohort: whose scan lies where, and what it shows. Patients are called by codes outside this machine's cache."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from kdrun.data import folders
from kdrun.data.class_labels import absent, merged
from kdrun.data.csv_table import lines, read_csv
from kdrun.data.source import TRAIN, part_of
from kdrun.domains.ct.series import NIFTI
from kdrun.problems import Problems, UserError, listed

COLUMNS = ("patient", "label", "split", "path")
HINT = "its first line is patient,label and, if you like, split (train, val, test) and path (below data.root)"
SHOWN = 5  # offenders that a message names


@dataclass(frozen=True)
class ScanRow:
    """A scan: line of the file, code of its patient, label, part of the data, and where it lies."""

    line: int
    patient: str
    label: str
    part: int
    place: Path

    def __str__(self) -> str:
        return f"line {self.line} ({self.patient})"


def secret(cache: Path) -> bytes:
    """The key that codes are made with: 32 random bytes that never leave the cache."""
    path = cache / "patient_key"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(new, path)  # the first of two processes wins
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return path.read_bytes()


def code(identifier: str, key: bytes) -> str:
    """What a patient is called everywhere: without the key, nobody can try out identifiers until one fits."""
    return "patient-" + hashlib.blake2b(identifier.encode(), key=key, digest_size=6).hexdigest()


@dataclass(frozen=True)
class Labels:
    """rows in the order of patient and place; split: whether the file says which split they are in; notes: one sentence each."""

    rows: list[ScanRow]
    split: bool
    notes: list[str]


def read_labels(path: Path, root: Path, key: bytes, leave_out: bool = False, alike: str = "stop") -> Labels:
    """leave_out: lines without a label, which are an error else. alike: see class_labels.merged.

    Raises ConfigProblems with all that is wrong in the file itself; whether scans are there is not looked at.
    """
    table = read_csv(path, "labels")
    table.need(("patient", "label"), HINT)
    problems, lines_without, identifiers, lines_of = Problems(), [], [], defaultdict(list)
    rows: list[ScanRow] = []
    for line, cells in table.rows:
        given = {name: cells.get(name, "") for name in COLUMNS}
        if wrong := _wrong(given, "split" in table.columns, "path" in table.columns):
            problems.add(f"{path.name} line {line}: {wrong}")
            continue
        if absent(given["label"]):
            lines_without.append(line)
            continue
        place = folders.below(root, given["path"]) if given["path"] else _place(root, given["patient"])
        part = part_of(given["split"]) if "split" in table.columns else TRAIN
        identifiers.append((given["patient"], place.as_posix()))
        rows.append(ScanRow(line, code(given["patient"], key), given["label"], part, place))
        lines_of[place].append(line)
    without = f"{path.name} {lines(lines_without)}: no label"
    if lines_without and not (leave_out and rows):
        problems.add(without, "write a word of its own where it is a class; data.incomplete=leave_out leaves them out")
    for numbers in lines_of.values():
        if len(numbers) > 1:
            problems.add(f"{path.name} {lines(numbers)} are about the same scan")
    problems.stop()
    if not rows:
        raise UserError(f"data.labels={path} has no lines below its header")

    def told(label: str) -> str:
        return f"in {lines([row.line for row in rows if row.label == label], 3)}"

    names, notes = merged([row.label for row in rows], path.name, alike, told)
    if lines_without:
        notes.append(f"{without}: left out")
    if unused := table.unused(COLUMNS):
        notes.append(f"columns of {path.name} that are not used: {listed(unused)}")
    rows = [replace(row, label=name) for row, name in zip(rows, names, strict=True)]
    order = sorted(range(len(rows)), key=lambda position: identifiers[position])
    return Labels([rows[position] for position in order], "split" in table.columns, notes)


def scans_without_labels(root: Path, key: bytes) -> Labels:
    """All folders and NIfTI files in `root`, each the scan of one patient, as rows with an empty label. UserError where there are none."""
    places = [path for path in sorted(root.iterdir()) if folders.visible(path.name) and _is_scan(path)]
    if not places:
        raise UserError(f"data.root={root} holds no folders of DICOM files and no NIfTI files")
    names = [path.name if path.is_dir() else _stem(path.name) for path in places]
    rows = [
        ScanRow(number, code(name, key), "", TRAIN, path)
        for number, (name, path) in enumerate(zip(names, places, strict=True))
    ]
    return Labels(rows, True, [])


def codes(labels: str | Path, cache: str | Path) -> dict[str, str]:
    """{code: patient as labels.csv says}, to find out on this machine whom a report means."""
    key = secret(Path(cache))
    table = read_csv(Path(labels), "labels")
    table.need(["patient"])
    return {code(patient, key): patient for patient in sorted({cells["patient"] for _, cells in table.rows})}


def check_places(rows: list[ScanRow], root: Path) -> tuple[list[ScanRow], list[str]]:
    """(rows whose scan is there, a line for each kind of what is missing): labels without scans, scans without labels."""
    there = [row for row in rows if os.path.exists(row.place)]
    missing = [str(row) for row in rows if not os.path.exists(row.place)]
    used = {row.place for row in rows}
    used |= {folder for place in used for folder in place.parents}
    unlabelled = [
        path for path in sorted(root.iterdir()) if path not in used and folders.visible(path.name) and _is_scan(path)
    ]
    told = []
    if missing:
        told.append(f"{len(missing)} labels without a scan: {', '.join(missing[:SHOWN])}{_more(missing)}")
    if unlabelled:
        # Their names may be those of patients, so they are counted.
        kinds = Counter("folders" if path.is_dir() else "NIfTI files" for path in unlabelled)
        told.append(
            f"{len(unlabelled)} scans without a label: "
            + " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            + " in data.root that labels.csv does not name"
        )
    return there, told


def _is_scan(path: Path) -> bool:
    return path.is_dir() or path.name.endswith(NIFTI)


def _stem(name: str) -> str:
    """The name of a NIfTI file without what says its kind."""
    return next((name.removesuffix(end) for end in NIFTI if name.endswith(end)), name)


def _wrong(given: dict[str, str], with_split: bool, with_path: bool) -> str | None:
    if absent(given["patient"]):
        return "no patient"
    if with_path and absent(given["path"]):
        return "no path"
    place = Path(given["path"] or given["patient"])
    if place.is_absolute() or ".." in place.parts:
        return "a path below data.root is expected"
    if with_split and part_of(given["split"]) is None:
        return f"split is {given['split']!r}, not train, val or test"
    return None


def _place(root: Path, patient: str) -> Path:
    found = [folders.below(root, f"{patient}{suffix}") for suffix in ("", *NIFTI)]
    return next((path for path in found if os.path.exists(path)), found[0])


def _more(names: list[str]) -> str:
    return " ..." if len(names) > SHOWN else ""
