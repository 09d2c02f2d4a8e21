"""Which sentence pair is used for what: whole groups of near-duplicates, by a hash; no test sentence in training."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.source import TEST, TRAIN, UNUSED, VAL
from kdrun.data.text_keys import near_key, pair_key
from kdrun.domains.translation.source import Pairs
from kdrun.problems import UserError


def assign(pairs: Pairs, config: dict[str, Any]) -> tuple[np.ndarray, dict[str, int]]:
    """(int8 [N]: the split of every pair, how many pairs were removed from which split because another has them).

    config: val_fraction, test_fraction, split_seed, limit, duplicates ("remove" or "keep").
    Parts that the source brings stay as they are. Test is taken first, then val from what is left for training, whole
    groups in an order that depends on the group and `split_seed`, until the fraction is reached.

    Removed is from training what validation or a test set has, and from validation what a test set has: pairs that are
    equal but for their spelling (text_keys.COMPARED), and where the test set is taken here, every pair that shares a
    sentence on either side (without case, digits and punctuation). A test set of the source is compared by pairs alone,
    since a short sentence such as "Thank you." belongs to training there.
    """
    split, seed = pairs.split.copy(), config["split_seed"]
    missing = [
        (part, option) for part, option in ((TEST, "test_fraction"), (VAL, "val_fraction")) if not (split == part).any()
    ]
    if missing:
        groups = pairs.groups or [near_key(sentence) for sentence in pairs.target]
        numbers = np.array([_number(group) for group in groups], np.int64)
        for part, option in missing:
            rows = np.flatnonzero(split == TRAIN)
            split[_share(rows, numbers[rows], config[option], randomness.key(option, seed))] = part
            if not (split == part).any() or not (split == TRAIN).any():
                raise UserError(
                    f"data.{option}={config[option]}: {pairs.name} has {len(rows)} pairs in "
                    f"{len(set(numbers[rows].tolist()))} groups of near-duplicates, which cannot be split",
                    "more text is needed, or files of their own for val and test",
                )
    removed: dict[str, int] = {}
    if config["duplicates"] == "remove":
        removed = _remove(pairs, split, by_sentence=(TEST, "test_fraction") in missing)
    limits = {**config["limit"], **{name: config["limit"]["test"] for name in pairs.extra}}
    for name, limit in limits.items():
        rows = np.flatnonzero(split == pairs.splits[name])
        if limit is not None and limit < len(rows):
            order = randomness.order(randomness.key(f"limit.{name}", seed), pairs.ids[rows])
            split[rows[order[limit:]]] = UNUSED
    return split, removed


def _number(group: str) -> int:
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little", signed=True)


def _share(rows: np.ndarray, groups: np.ndarray, fraction: float, key: int) -> np.ndarray:
    """Rows of whole groups, as few groups as reach `fraction` of the rows."""
    known, members = np.unique(groups, return_inverse=True)
    place = np.empty(len(known), np.int64)  # of each group in the random order
    order = randomness.order(key, known)
    place[order] = np.arange(len(known))
    before = np.cumsum(np.bincount(members)[order]) - np.bincount(members)[order]
    return rows[before[place[members]] < max(round(len(rows) * fraction), 1)]


def _remove(pairs: Pairs, split: np.ndarray, by_sentence: bool) -> dict[str, int]:
    """Mark as unused what a split shares with one that comes first: test, further test sets, val, train."""
    seen: set[Any] = set()
    removed: dict[str, int] = {}
    for name in ("test", *pairs.extra, "val", "train"):
        shared, new = [], []
        for row in np.flatnonzero(split == pairs.splits[name]).tolist():
            own = _keys(pairs, row, by_sentence)
            if not seen.isdisjoint(own):
                shared.append(row)
            elif name != "train":
                new.extend(own)
        seen.update(new)  # only now: pairs of one split may be alike
        split[shared] = UNUSED
        if shared:
            removed[name] = len(shared)
    return removed


def _keys(pairs: Pairs, row: int, by_sentence: bool) -> tuple[Any, ...]:
    """What must not be in two splits. A sentence of digits and marks alone has nothing left to compare by itself."""
    source, target = pairs.source[row], pairs.target[row]
    same = ("pair", pair_key((source, target)))
    if not by_sentence:
        return (same,)
    sentences = [("source", near_key(source)), ("target", near_key(target))]
    if pairs.groups is not None:
        sentences.append(("group", pairs.groups[row]))
    return (same, *(key for key in sentences if key[1]))
