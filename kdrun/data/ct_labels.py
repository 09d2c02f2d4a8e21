"""labels.csv of a cohort: whose scan lies where, and what it shows. Patients are called by codes outside this machine's cache."""

from __future__ import annotations

import csv
import hashlib
import os
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from kdrun.data.ct_series import NIFTI
from kdrun.data.image_folder import PARTS
from kdrun.data.images import TRAIN
from kdrun.problems import Problems, UserError, closest

COLUMNS = ("patient", "label", "split", "path")
SHOWN = 5  # offenders that a message names


@dataclass(frozen=True)
class Row:
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


def read_labels(path: Path, root: Path, key: bytes) -> tuple[list[Row], bool]:
    """(rows in the order of patient and place, whether the file says which split they are in).

    Raises ConfigProblems with all that is wrong in the file itself; whether scans are there is not looked at.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"data.labels={path}: there is no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"data.labels={path}: not a text in UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    names = [name.strip().lower() for name in first.strip().split(delimiter)]
    _check_columns(path, names)
    problems, rows, identifiers = Problems(), [], []
    for cells in reader:
        line = reader.line_num
        known = {str(name).strip().lower(): (value or "").strip() for name, value in cells.items() if name}
        given = {name: known.get(name, "") for name in COLUMNS}
        wrong = _wrong(given, "split" in names, "path" in names)
        if wrong:
            problems.add(f"{path.name} line {line}: {wrong}")
            continue
        place = root / given["path"] if given["path"] else _place(root, given["patient"])
        part = PARTS[given["split"].lower()] if "split" in names else TRAIN
        identifiers.append((given["patient"], place.as_posix()))
        rows.append(Row(line, code(given["patient"], key), given["label"], part, place))
    places = defaultdict(list)
    for row in rows:
        places[row.place].append(row.line)
    for lines in places.values():
        if len(lines) > 1:
            problems.add(f"{path.name} lines {', '.join(map(str, lines))} are about the same scan")
    problems.stop()
    if not rows:
        raise UserError(f"data.labels={path} has no lines below its header")
    order = sorted(range(len(rows)), key=lambda place: identifiers[place])
    return [rows[place] for place in order], "split" in names


def codes(labels: str | Path, cache: str | Path) -> dict[str, str]:
    """{code: patient as labels.csv says}, to find out on this machine whom a report means."""
    key = secret(Path(cache))
    text = Path(labels).read_text(encoding="utf-8-sig")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    column = next(name for name in reader.fieldnames or () if name.strip().lower() == "patient")
    patients = {row[column].strip() for row in reader}
    return {code(patient, key): patient for patient in sorted(patients)}


def check_places(rows: list[Row], root: Path) -> tuple[list[Row], list[str]]:
    """(rows whose scan is there, a line for each kind of what is missing): labels without scans, scans without labels."""
    there = [row for row in rows if row.place.exists()]
    absent = [str(row) for row in rows if not row.place.exists()]
    used = {row.place for row in rows}
    used |= {folder for place in used for folder in place.parents}
    unlabelled = [
        path
        for path in sorted(root.iterdir())
        if path not in used and not path.name.startswith(".") and (path.is_dir() or path.name.endswith(NIFTI))
    ]
    lines = []
    if absent:
        lines.append(f"{len(absent)} labels without a scan: {', '.join(absent[:SHOWN])}{_more(absent)}")
    if unlabelled:
        # Their names may be those of patients, so they are counted.
        kinds = Counter("folders" if path.is_dir() else "NIfTI files" for path in unlabelled)
        lines.append(
            f"{len(unlabelled)} scans without a label: "
            + " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            + " in data.root that labels.csv does not name"
        )
    return there, lines


def _check_columns(path: Path, names: list[str]) -> None:
    for wanted in ("patient", "label"):
        if wanted not in names:
            raise UserError(
                f"data.labels={path}: no column {wanted}{closest(wanted, names)}",
                "its first line is patient,label and, if you like, split (train, val, test) and path (below data.root)",
            )


def _wrong(given: dict[str, str], with_split: bool, with_path: bool) -> str | None:
    for name in ("patient", "label"):
        if not given[name]:
            return f"no {name}"
    if with_path and not given["path"]:
        return "no path"
    place = Path(given["path"] or given["patient"])
    if place.is_absolute() or ".." in place.parts:
        return "a path below data.root is expected"
    if with_split and given["split"].lower() not in PARTS:
        return f"split is {given['split']!r}, not train, val or test"
    return None


def _place(root: Path, patient: str) -> Path:
    found = [root / patient, *(root / f"{patient}{suffix}" for suffix in NIFTI)]
    return next((path for path in found if path.exists()), found[0])


def _more(names: list[str]) -> str:
    return " ..." if len(names) > SHOWN else ""
