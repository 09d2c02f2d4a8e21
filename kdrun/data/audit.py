"""Look at a data set before anything is trained on it: the same picture in two splits, broken labels and pixels."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np

from kdrun.data.source import SPLITS, ArraySource
from kdrun.problems import UserError

VERSION = 1  # raised when what is found in the same samples changes
NAMED = 3  # offenders that a message names


def audit(source: ArraySource, split: np.ndarray, labelled: np.ndarray | None = None) -> dict[str, Any]:
    """What was found in images, or in a table (whose inputs are rows, and which has no classes), in JSON types:

    samples         per split
    duplicates      per split: samples whose pixels equal those of an earlier one
    shared          per pair of splits ("train/test"): pairs of equal pixels, how many of the later split's samples are
                    concerned, and pairs whose labels differ
    contradictions  samples within one split that have equal pixels and another label than an earlier one
    empty_classes   per split, class names without a sample (only splits that have any are listed)
    unreadable      names of files that could not be decoded
    notes           what else is known of how the source was read
    labelled        training samples with a label, where not all have one (labelled: bool [N])
    summary         one line

    Raises UserError where a run would be senseless: a label out of range, a pixel that is not finite, a class without
    training samples. The message names the first few and says how many there are.
    """
    used = {name: np.flatnonzero(split == part) for name, part in SPLITS.items()}
    known = np.ones(len(source), bool) if labelled is None else labelled
    _refuse_senseless(source, used, known)
    groups = _equal_pixels(source, split)
    shared = {f"{a}/{b}": {"pairs": 0, "samples": 0, "contradictions": 0} for a, b in combinations(SPLITS, 2)}
    duplicates, contradictions = dict.fromkeys(SPLITS, 0), 0
    for members in groups:
        labels, counts = {name: Counter() for name in SPLITS}, Counter()
        for position in members:
            counts[name := _name(split[position])] += 1
            if known[position]:
                labels[name][source.label(position)] += 1
        for name, count in counts.items():
            duplicates[name] += count - 1
            contradictions += labels[name].total() - max(labels[name].values(), default=0)
        for a, b in combinations(SPLITS, 2):
            if counts[a] and counts[b]:
                equal = sum(labels[a][label] * labels[b][label] for label in labels[a])
                entry = shared[f"{a}/{b}"]
                entry["pairs"] += counts[a] * counts[b]
                entry["samples"] += counts[b]
                entry["contradictions"] += labels[a].total() * labels[b].total() - equal
    empty = {name: _empty_classes(source, rows[known[rows]]) for name, rows in used.items()}
    found = {
        "samples": {name: len(rows) for name, rows in used.items()},
        "duplicates": duplicates,
        "shared": shared,
        "contradictions": contradictions,
        "empty_classes": {name: classes for name, classes in empty.items() if classes},
        "unreadable": list(source.unreadable),
        "notes": list(source.notes),
    }
    if labelled is not None:
        found["labelled"] = int(known[used["train"]].sum())
        found["notes"].append(f"{found['labelled']} of {len(used['train'])} training samples have a label")
    return {**found, "summary": summary(found)}


def summary(found: dict[str, Any]) -> str:
    """`no sample is in two splits; 12 repeated within train`"""
    parts = []
    for pair, entry in found["shared"].items():
        if entry["pairs"]:
            first, second = pair.split("/")
            differing = f", {entry['contradictions']} pairs labelled differently" if entry["contradictions"] else ""
            parts.append(f"{entry['samples']} {second} samples are also in {first}{differing}")
    if not parts:
        parts.append("no sample is in two splits")
    parts += repeated(found["duplicates"])
    if found["contradictions"]:
        parts.append(f"{found['contradictions']} repeated with another label")
    for name, classes in found["empty_classes"].items():
        parts.append(f"{name} has no {', '.join(classes[:NAMED])}{' ...' if len(classes) > NAMED else ''}")
    if found["unreadable"]:
        names = ", ".join(found["unreadable"][:NAMED]) + (" ..." if len(found["unreadable"]) > NAMED else "")
        parts.append(f"{len(found['unreadable'])} unreadable files left out: {names}")
    parts += found["notes"]
    return "; ".join(parts)


def repeated(duplicates: dict[str, int]) -> list[str]:
    """`repeated: 12 in train`, for a summary; [] where nothing is."""
    counts = [f"{count} in {name}" for name, count in duplicates.items() if count]
    return [f"repeated: {', '.join(counts)}"] if counts else []


def most_of(counts: Iterable[tuple[str, int]], write: str = "{count} {name}", most: int = 4) -> str:
    """`5 too long, 3 empty ...`: the largest counts."""
    ordered = sorted(counts, key=lambda item: -item[1])
    named = ", ".join(write.format(name=name, count=count) for name, count in ordered[:most])
    return named + (" ..." if len(ordered) > most else "")


def _refuse_senseless(source: ArraySource, used: dict[str, np.ndarray], known: np.ndarray) -> None:
    rows = np.concatenate(list(used.values()))
    told = rows[known[rows]]
    labels = source.y[told]
    real = labels.dtype.kind == "f"
    finite = np.isfinite(labels).reshape(len(labels), -1).all(axis=1)
    wrong = told[~finite if real else (labels < 0) | (labels >= len(source.classes))]
    lines = []
    if len(wrong) and real:
        named = _named(source, wrong, source.describe)
        lines.append(f"{source.name}: {len(wrong)} targets are NaN or infinite: {named}")
    elif len(wrong):
        named = _named(source, wrong, lambda position: f"{source.describe(position)} has label {source.y[position]}")
        lines.append(f"{source.name}: {len(wrong)} labels are not in 0..{len(source.classes) - 1}: {named}")
    if source.x.dtype.kind == "f":
        finite = np.isfinite(source.x.reshape(len(source), -1)).all(axis=1)
        broken = rows[~finite[rows]]
        if len(broken):
            named = _named(source, broken, source.describe)
            lines.append(f"{source.name}: {len(broken)} {source.broken}: {named}")
    empty = _empty_classes(source, used["train"][known[used["train"]]])
    if empty:
        more = f" ... ({len(empty)} in all)" if len(empty) > NAMED else ""
        lines.append(f"{source.name}: no training sample of class {', '.join(empty[:NAMED])}{more}")
    elif not real and len(source.classes) < 2:
        lines.append(
            f"{source.name}: all samples are of one class ({', '.join(source.classes)}): there is nothing to learn"
        )
    if lines:
        raise UserError(*lines)


def _named(source: ArraySource, positions: np.ndarray, describe) -> str:
    shown = ", ".join(describe(int(position)) for position in positions[:NAMED])
    return shown + (" ..." if len(positions) > NAMED else "")


def _empty_classes(source: ArraySource, rows: np.ndarray) -> list[str]:
    present = source.occurring(rows)
    return [name for number, name in enumerate(source.classes) if number not in present]


def _equal_pixels(source: ArraySource, split: np.ndarray) -> list[list[int]]:
    """Groups of two or more used positions whose pixels are the same, byte for byte."""
    positions: dict[bytes, list[int]] = defaultdict(list)
    rows = np.flatnonzero(split >= 0)
    width = source.x[:1].nbytes
    block = max(1, (16 << 20) // max(width, 1))
    for start in range(0, len(rows), block):
        chosen = rows[start : start + block]
        content = memoryview(source.x[chosen].tobytes())
        for number, position in enumerate(chosen.tolist()):
            pixels = content[number * width : (number + 1) * width]
            positions[hashlib.blake2b(pixels, digest_size=16).digest()].append(position)
    return [members for members in positions.values() if len(members) > 1]


def _name(part: int) -> str:
    return next(name for name, number in SPLITS.items() if number == part)
