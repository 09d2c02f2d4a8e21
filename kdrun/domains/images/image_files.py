"""Which files of a folder of images are which class and which split, and what is there besides. Nothing is decoded."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kdrun.data import folders
from kdrun.data.class_labels import merged
from kdrun.data.pictures import SUFFIXES
from kdrun.data.source import SPLITS, TRAIN, part_of
from kdrun.problems import UserError, listed

WRITTEN = frozenset(
    (".txt", ".md", ".rst", ".log", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html")
)
"""What accompanies images. A folder that holds nothing else is no class whose images cannot be read."""
_SPLIT_WORD = re.compile(r"(?<![^\W_\d])(train|val|test|(?:tr|trn|va|te|ts|tst|dev)(?![^\W_\d]))", re.IGNORECASE)
"""What begins like the name of a split, or is a short form of it: seg_train, Testdaten, te."""
NAMED = 5
"""Folders that a message names."""


@dataclass(frozen=True)
class Kind:
    """Files that are samples: what they are called, and how their names end."""

    name: str
    suffixes: tuple[str, ...]

    def has(self, path: Path) -> bool:
        return path.suffix.lower() in self.suffixes

    @property
    def expected(self) -> str:
        place = f"CLASS/*{self.suffixes[0]}"
        return f"expected root/{place}, or root/train/{place} and so on with val and test"


IMAGES = Kind("images", (".png", *sorted(set(SUFFIXES) - {".png"})))


@dataclass(frozen=True)
class ImageFile:
    """path; name: relative to the root, with forward slashes, in composed characters; label; part: see images.SPLITS."""

    path: Path
    name: str
    label: str
    part: int


def image_files(root: Path, alike: str = "stop", kind: Kind = IMAGES) -> tuple[list[ImageFile], list[str]]:
    """(all images, or files of another kind, in the order of their names, what else a person should know: one sentence each).

    The folders below root are splits where they are called so, else classes. Raises UserError where that cannot be told,
    where a split is there twice, for a class none of whose files is an image, and (see class_labels.merged) for names of
    classes that differ only in spelling.
    """
    folders.existing(root)
    tops = {top: list(folders.files(top)) for top in folders.folders(root)}
    parts = _parts(root, tops, kind)
    notes = []
    if parts and len(parts) < len(tops):
        left = [f"{top.name} ({folders.by_extension(tops[top]) or 'empty'})" for top in tops if top not in parts]
        notes.append(f"left out, since they are no split: {listed(left, NAMED)}")
    if empty := [top.name for top in parts if not any(map(kind.has, tops[top]))]:
        notes.append(f"splits without {kind.name}, so that theirs are taken from train: {listed(empty, NAMED)}")
    places = [(label, paths, parts[top]) for top in parts for label, paths in _inside(top, tops[top]).items()]
    places = places or [(top, paths, TRAIN) for top, paths in tops.items()]
    _refuse_unnamed(path for _, paths, _ in places for path in paths)
    images, unread, spelled = [], defaultdict(list), defaultdict(set)
    for label, paths, part in places:
        name = folders.composed(label.name)
        spelled[name].add(label.name)
        unread[name] += [path for path in paths if not kind.has(path)]
        images += [
            ImageFile(path, folders.composed(folders.relative(path, root)), name, part)
            for path in paths
            if kind.has(path)
        ]
    if not images:
        other = folders.by_extension(path for paths in tops.values() for path in paths)
        raise UserError(
            f"data.root={root} holds no {kind.name} in subfolders{f' ({other})' if other else ''}", kind.expected
        )
    notes += _told(root, parts, images, unread, spelled, kind)
    _refuse_doubled(root, parts, images, kind)
    counts = Counter(file.label for file in images)
    labels, merged_notes = merged(
        [file.label for file in images], f"data.root={root}", alike, lambda label: f"({counts[label]} {kind.name})"
    )
    images = [
        file if file.label == label else replace(file, label=label) for file, label in zip(images, labels, strict=True)
    ]
    notes += merged_notes
    return sorted(images, key=lambda file: (file.name, str(file.path))), notes


is_image = IMAGES.has


def _refuse_unnamed(paths: Iterable[Path]) -> None:
    """UserError for a name that is not UTF-8: it can be in no record, and on no other system."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{os.fsencode(path).decode(errors='backslashreplace')}: its name is not UTF-8",
                "rename it; many at once: convmv -r -f LATIN1 -t UTF-8 --notest FOLDER",
            ) from None


def _refuse_doubled(root: Path, parts: dict[Path, int], images: list[ImageFile], kind: Kind) -> None:
    """UserError where splits have a folder of the same name in them (train/train/cat): it would be a class."""
    where: dict[str, set[int]] = defaultdict(set)
    for file in images if parts else ():
        where[file.label].add(file.part)
    for label, found in where.items():
        if found == {part_of(label)}:
            name = next(file.name for file in images if file.label == label)
            raise UserError(f"data.root={root}: {name} is in a split within a split", kind.expected)


def _inside(top: Path, paths: list[Path]) -> dict[Path, list[Path]]:
    """The files of each folder in `top`, at any depth."""
    found = {folder: [] for folder in folders.folders(top)}
    for path in paths:
        if path.parent != top:
            found[top / folders.relative(path, top).partition("/")[0]].append(path)
    return found


def _parts(root: Path, tops: dict[Path, list[Path]], kind: Kind) -> dict[Path, int]:
    """The folders that are splits; {} where the folders are classes."""
    named = {top: part for top in tops if (part := part_of(top.name)) is not None}
    pictured = {top: [path for path in paths if kind.has(path)] for top, paths in tops.items()}
    # A split has its images one folder further down.
    divided = [top for top in named if not any(path.parent == top for path in pictured[top])]
    others = [top for top in tops if top not in named and pictured[top]]
    complete = TRAIN in named.values() and len(set(named.values())) > 1
    if not named or (others and not divided and not complete):
        _refuse_below(root, tops, kind)
        _refuse_named_like(root, pictured)
        return {}
    called = ", ".join(top.name for top in named)
    if not any(pictured[top] for top in divided):
        raise UserError(f"data.root={root}: {called} hold no {kind.name} in folders of classes", kind.expected)
    if others and not complete:
        raise UserError(
            f"data.root={root}: {called} is called like a split, and {listed((top.name for top in others), NAMED)} beside it like a class",
            "rename it where it is a class, else put the others elsewhere",
        )
    if TRAIN not in named.values():
        raise UserError(f"data.root={root} has {called} but no train")
    for split, part in SPLITS.items():
        same = [top.name for top, number in named.items() if number == part]
        if len(same) > 1:
            raise UserError(
                f"data.root={root}: {' and '.join(same)} are both {split}", "keep one of them, or put both into one"
            )
    return named


def _refuse_named_like(root: Path, pictured: dict[Path, list[Path]]) -> None:
    """UserError where most folders that are taken for classes are called somehow like splits, training and another."""
    words = {top: _SPLIT_WORD.findall(top.name) for top, paths in pictured.items() if paths}
    kinds = {word.lower()[:2] for found in words.values() for word in found}
    if "tr" in kinds and len(kinds) > 1 and 2 * sum(map(bool, words.values())) > len(words):
        names = listed((top.name for top, found in words.items() if found), NAMED)
        raise UserError(
            f"data.root={root}: are {names} classes or splits?", "as splits they are called train, val, test"
        )


def _refuse_below(root: Path, tops: dict[Path, list[Path]], kind: Kind) -> None:
    """UserError where the folders that are taken for classes hold splits: they would be mixed."""
    for top in tops:
        inside = {part_of(path.name): path.name for path in folders.folders(top)}
        if TRAIN in inside and len(set(inside) - {None}) > 1:
            names = ", ".join(f"{top.name}/{name}" for part, name in inside.items() if part is not None)
            raise UserError(
                f"data.root={root} has splits below its folders: {names}",
                f"data.root={top}" if len(tops) == 1 else kind.expected,
            )


def _told(
    root: Path, parts: dict[Path, int], images: list[ImageFile], unread: dict, spelled: dict, kind: Kind
) -> list[str]:
    notes = []
    known = {file.label for file in images}
    empty = []
    for label, paths in sorted(unread.items()):
        if label in known:
            continue
        if {path.suffix.lower() for path in paths} - WRITTEN:
            raise UserError(
                f"data.root={root}: no file of class {label} can be read as {kind.name} ({folders.by_extension(paths)})",
                f"what is read: {' '.join(kind.suffixes)}",
                "convert its files, or put the folder elsewhere where it is no class",
            )
        empty.append(f"{label} ({folders.by_extension(paths) or 'empty'})")
    if empty:
        notes.append(f"left out, since they hold no {kind.name}: {listed(empty, NAMED)}")
    other = [path for label, paths in unread.items() if label in known for path in paths]
    if other:
        notes.append(f"files that are not read: {folders.by_extension(other)}")
    loose = [path for top in (root, *parts) for path in top.iterdir() if path.is_file() and folders.visible(path.name)]
    if loose:
        notes.append(f"files in no folder of a class: {folders.by_extension(loose)}")
    alike = [label for label, names in sorted(spelled.items()) if len(names) > 1]
    if alike:
        notes.append(f"class names that differ only in how accents are stored are one: {listed(alike, NAMED)}")
    return notes
