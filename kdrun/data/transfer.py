"""What of a training split has labels: labels that are hidden, further inputs without labels, wrong labels and rare classes.

Validation and test keep their samples and their labels. What is drawn depends on `data.split_seed` and sample ids alone, so all
seeds of a job agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.source import TRAIN, UNUSED, ArraySource
from kdrun.data.splits import by_stratum, proportional
from kdrun.problems import UserError

FURTHER_IDS = 1 << 40
"""What is added to the ids of `data.unlabelled`: no source has as many samples, so they are none of the main set."""
NO_CLASS = -1


@dataclass(frozen=True)
class Training:
    """A source with its split, and which of its samples have a label.

    source    with NO_CLASS (or NaN) for labels that are hidden, so that nothing can read them
    split     int8 [N], see source.SPLITS
    labelled  bool [N]; None: all
    """

    source: ArraySource
    split: np.ndarray
    labelled: np.ndarray | None = None


def chosen(source: ArraySource, split: np.ndarray, config: dict[str, Any]) -> Training:
    """The source after `long_tail`, `label_noise` and `labelled`, in this order. Raises UserError where one is impossible."""
    source, split = _long_tail(source, split, config)
    noisy = _with_noise(source, split, config)
    rows = np.flatnonzero(split == TRAIN)
    strata, ids = source.strata[rows], source.ids[rows]
    kept = keep_labels(ids, strata, config, source.name, _classes(source, strata))
    if kept is None:
        return Training(noisy, split)
    labelled = np.ones(len(source), bool)
    labelled[rows[~kept]] = False
    return Training(without_labels(noisy, ~labelled), split, labelled)


def of_classes(training: Training, subset: dict[str, Any] | None) -> Training:
    """What `data.restrict` (class_subset.ClassSubset) leaves of all splits and further test sets; None: everything.

    Of `replay` as many training samples stay as fit into `replay_bytes`, in equal parts of each of these classes. Which ones depends on
    sample ids alone, and those that fit into fewer bytes are among those that fit into more: a memory that is
    divided among more classes keeps what it had. Raises UserError for classes that are not there, and where nothing is left to train on.
    """
    if not subset or not (subset["classes"] or subset["replay"]):
        return training
    source, split = training.source, training.split.copy()
    _refuse_without_classes(source, "restrict.classes", subset["classes"] or subset["replay"])
    for name in ("classes", "replay"):
        if wrong := [number for number in subset[name] if number >= len(source.classes)]:
            raise UserError(
                f"data.restrict.{name}: {source.name} has no class {wrong[0]}; its {len(source.classes)} classes are "
                f"0 to {len(source.classes) - 1}"
            )
    classes = subset["classes"] or list(range(len(source.classes)))
    if both := sorted({*classes} & {*subset["replay"]}):
        raise UserError(
            f"data.restrict.replay={subset['replay']}: class {both[0]} is among the classes that are used anyway"
        )
    used = np.isin(source.y, classes)
    remembered = _remembered(source, np.flatnonzero(split == TRAIN), subset)
    split[~used] = UNUSED
    split[remembered] = TRAIN
    if not (split == TRAIN).any():
        raise UserError(f"data.restrict.classes={classes}: {source.name} has no training samples of these")
    further = {name: rows[used[rows]] for name, rows in source.further.items()}
    source = replace(source, further=further) if source.further else source
    return replace(training, source=source, split=split)


def _remembered(source: ArraySource, rows: np.ndarray, subset: dict[str, Any]) -> np.ndarray:
    """int64: positions of the training samples (among `rows`) that a memory of `replay_bytes` holds of the classes `replay`."""
    if not subset["replay"]:
        return rows[:0]
    each = source.x[0].nbytes + source.y[0].nbytes
    rows = rows[np.isin(source.y[rows], subset["replay"])]
    groups = list(by_stratum(source.ids[rows], source.y[rows], randomness.key("replay", 0)))
    if not groups:
        return rows
    if not (count := subset["replay_bytes"] // each // len(groups)):
        raise UserError(
            f"replay_bytes={subset['replay_bytes']}: no room for one sample of each class that is kept",
            f"{len(groups)} samples of {each:,} bytes take {len(groups) * each:,}",
        )
    return rows[np.concatenate([members[:count] for members in groups])]


def keep_labels(
    ids: np.ndarray, strata: np.ndarray, config: dict[str, Any], name: str, classes: int = 0
) -> np.ndarray | None:
    """bool [n]: which of the training samples keep their labels under `data.labelled`; None: all.

    ids, strata: int64 [n]; strata are drawn in proportion. classes: of which each has to keep a label.
    Raises UserError for more labels than there are, and for too few.
    """
    if config["labelled"] is None:
        return None
    count = label_count(config["labelled"], len(ids), name, classes)
    if count == len(ids):
        return None
    kept = np.zeros(len(ids), bool)
    kept[proportional(list(by_stratum(ids, strata, randomness.key("labelled", config["split_seed"]))), count)] = True
    return kept


def keep_labels_of_texts(ids: np.ndarray, kinds: list[str], config: dict[str, Any], name: str) -> np.ndarray | None:
    """As keep_labels, of samples whose labels are texts; kinds: what they are drawn in proportion from, one for each."""
    for key in ("label_noise", "long_tail"):
        if config[key]:
            raise UserError(f"data.{key}={config[key]:g}: labels of {name} are texts", "it is for data with classes")
    codes = {kind: number for number, kind in enumerate(sorted(set(kinds)))}
    return keep_labels(ids, np.array([codes[kind] for kind in kinds], np.int64), config, name)


def label_count(labelled: float, samples: int, name: str, classes: int = 0) -> int:
    """`data.labelled`, a share of these samples or a number of them, as a number."""
    share = labelled < 1
    count = round(labelled * samples) if share else int(labelled)
    said = f"data.labelled={labelled:g}"
    if count > samples:
        raise UserError(
            f"{said}: {name} has {samples} training samples", f"data.labelled={samples} or less, or null for all"
        )
    if count < max(classes, 1):
        what = f"{count} of {samples} training samples" if share else f"{count} labels"
        need = (
            f"one of each of the {classes} classes of {name} needs a label"
            if classes
            else f"at least one sample of {name} needs a label"
        )
        least = math.ceil(1000 * max(classes, 1) / max(samples, 1)) / 1000 if share else max(classes, 1)
        raise UserError(f"{said}: {what}; {need}", f"data.labelled={least:g} or more")
    return count


def without_labels(source: ArraySource, hidden: np.ndarray) -> ArraySource:
    """The source with nothing where labels were; hidden: bool [N]."""
    y = source.y.copy()
    y[hidden] = math.nan if y.dtype.kind == "f" else NO_CLASS
    return replace(source, y=y)


def with_unlabelled(main: Training, other: ArraySource | None) -> Training:
    """The training samples of `other` behind those of the main set, as training samples without labels.

    Left out, and said in the notes, is what is also in validation or test of the main set (equal inputs). Raises UserError where
    inputs are not alike, or none is left.
    """
    if other is None:
        return main
    source = main.source
    _refuse_other_inputs(source, other)
    rows = np.flatnonzero(other.split == TRAIN)
    held_out = np.flatnonzero(main.split > TRAIN)
    held_out = np.concatenate([held_out, *source.further.values()])
    known = set(_digests(source.x, held_out))
    new = np.array([digest not in known for digest in _digests(other.x, rows)], bool)
    rows, dropped = rows[new], int((~new).sum())
    if not len(rows):
        raise UserError(
            f"data.unlabelled={other.name}: "
            + (
                f"all of its {dropped} samples are also in validation or test of {source.name}"
                if dropped
                else "it has no samples"
            )
        )
    notes = [f"{len(rows)} samples without labels from {other.name}"]
    notes += [f"{dropped} of {other.name} left out: they are also in validation or test"] if dropped else []
    joined = source.followed_by(other, rows, FURTHER_IDS)
    count = len(source)
    labelled = np.ones(count, bool) if main.labelled is None else main.labelled
    labelled = np.concatenate([labelled, np.zeros(len(rows), bool)])
    joined = without_labels(replace(joined, notes=(*source.notes, *notes)), ~labelled)
    return Training(joined, np.concatenate([main.split, np.full(len(rows), TRAIN, np.int8)]), labelled)


def _refuse_other_inputs(source: ArraySource, other: ArraySource) -> None:
    said = f"data.unlabelled={other.name}"
    if other.x.shape[1:] != source.x.shape[1:]:
        raise UserError(
            f"{said}: its inputs are of shape {other.x.shape[1:]}, those of {source.name} {source.x.shape[1:]}"
        )
    if other.x.dtype != source.x.dtype:
        raise UserError(f"{said}: its inputs are {other.x.dtype}, those of {source.name} {source.x.dtype}")
    for name in ("features", "views"):
        theirs, ours = getattr(other, name, None), getattr(source, name, None)
        if theirs != ours:
            raise UserError(f"{said}: its {name} are {', '.join(theirs)}; those of {source.name} {', '.join(ours)}")


def _digests(x: np.ndarray, rows: np.ndarray) -> list[bytes]:
    """A hash of the raw input of each of these samples."""
    import hashlib

    return [hashlib.blake2b(np.ascontiguousarray(x[row]).tobytes(), digest_size=16).digest() for row in rows.tolist()]


def _classes(source: ArraySource, strata: np.ndarray) -> int:
    """Classes of a source that have training samples; 0 where targets are numbers."""
    return len(np.unique(strata)) if source.classes else 0


def _with_noise(source: ArraySource, split: np.ndarray, config: dict[str, Any]) -> ArraySource:
    """`label_noise` of the training labels replaced by another class, each of the others as likely."""
    share = config["label_noise"]
    if not share:
        return source
    _refuse_without_classes(source, "label_noise", share)
    rows = np.flatnonzero(split == TRAIN)
    seed = config["split_seed"]
    order = rows[randomness.order(randomness.key("label_noise", seed), source.ids[rows])]
    wrong = order[: round(share * len(rows))]
    others = np.uint64(len(source.classes) - 1)
    steps = 1 + (randomness.bits(randomness.key("label_noise class", seed), source.ids[wrong]) % others).astype(
        np.int64
    )
    y = source.y.copy()
    y[wrong] = (y[wrong] + steps) % len(source.classes)
    gone = np.setdiff1d(source.y[rows], y[rows])
    if len(gone):
        names = ", ".join(source.classes[int(code)] for code in gone[:3]) + (" ..." if len(gone) > 3 else "")
        raise UserError(f"data.label_noise={share:g}: no training sample of {source.name} keeps or gets label {names}")
    note = f"{len(wrong)} of {len(rows)} training labels are wrong (data.label_noise={share:g})"
    return replace(source, y=y, notes=(*source.notes, note))


def _long_tail(source: ArraySource, split: np.ndarray, config: dict[str, Any]) -> tuple[ArraySource, np.ndarray]:
    """Class c of C keeps n * ratio^(-c / (C - 1)) training samples, n those of the largest class (Cui et al. 2019,
    arXiv 1901.05555, section 5.1), and never less than one."""
    ratio = config["long_tail"]
    if ratio is None:
        return source, split
    _refuse_without_classes(source, "long_tail", ratio)
    split, rows = split.copy(), np.flatnonzero(split == TRAIN)
    counts = np.bincount(source.y[rows], minlength=len(source.classes))
    groups = by_stratum(source.ids[rows], source.y[rows], randomness.key("long_tail", config["split_seed"]))
    for members in groups:
        rank = source.y[rows[members[0]]] / max(len(counts) - 1, 1)
        most = max(int(counts.max() * ratio**-rank), 1)
        split[rows[members[most:]]] = UNUSED
    left = int((split == TRAIN).sum())
    note = f"{left} of {len(rows)} training samples are left (data.long_tail={ratio:g})"
    return replace(source, notes=(*source.notes, note)), split


def _refuse_without_classes(source: ArraySource, key: str, value: Any) -> None:
    if not source.classes or source.y.ndim > 1:
        said = f"{value:g}" if isinstance(value, float) else value
        raise UserError(
            f"data.{key}={said}: {source.name} has no classes of which each sample has one",
            "it is for data with classes",
        )
