"""Sentences without translation: hidden ones (`data.labelled`) and further ones (`data.unlabelled`). A source without a target is what a
teacher can be asked about, and a student that is given its answer can learn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.source import TRAIN
from kdrun.data.text_keys import blank, text_key
from kdrun.data.transfer import FURTHER_IDS, keep_labels_of_texts
from kdrun.domains.translation.source import Pairs
from kdrun.domains.translation.text_files import lines_of
from kdrun.problems import UserError

TARGETS = ("unlabelled_sentences",)


@dataclass(frozen=True)
class Transferred:
    """pairs with "" for a target that is hidden or not there; hidden: bool [N], whose target that is; notes: for the audit."""

    pairs: Pairs
    hidden: np.ndarray
    notes: tuple[str, ...] = ()

    def labelled(self, rows: np.ndarray) -> Any:
        """bool [n] of these pairs, a tensor; None where all targets are there."""
        import torch

        return torch.from_numpy(~self.hidden[rows]) if self.hidden.any() else None


def transferred(pairs: Pairs, split: np.ndarray, config: dict[str, Any]) -> tuple[Transferred, np.ndarray]:
    """(the pairs without hidden targets and with `data.unlabelled` behind them, the split of all). split: int8 [N]."""
    rows, hidden, notes = np.flatnonzero(split == TRAIN), np.zeros(len(pairs), bool), []
    kept = keep_labels_of_texts(pairs.ids[rows], [""] * len(rows), config, pairs.name)
    if kept is not None:
        hidden[rows[~kept]] = True
        notes.append(f"{int(kept.sum())} of {len(rows)} training sentences have a translation")
        target = ["" if without else text for without, text in zip(hidden.tolist(), pairs.target, strict=True)]
        pairs = replace(pairs, target=target)
    other = config["unlabelled"]
    if other is None:
        return Transferred(pairs, hidden, tuple(notes)), split
    pairs, count, dropped = _joined(pairs, split, other)
    notes.append(f"{count} sentences without translation from {other.name}")
    notes += [f"{dropped} of {other.name} left out: they are also in validation or test"] if dropped else []
    more = np.full(count, TRAIN, np.int8)
    hidden = np.concatenate([hidden, np.ones(count, bool)])
    return Transferred(pairs, hidden, tuple(notes)), np.concatenate([split, more])


def _joined(pairs: Pairs, split: np.ndarray, other: Pairs) -> tuple[Pairs, int, int]:
    """(with the training sources of `other`, how many, how many were left out since a held-out sentence is the same)."""
    said = f"data.unlabelled={other.name}"
    if other.languages[0] != pairs.languages[0]:
        raise UserError(
            f"{said}: its sentences are in {other.languages[0]}, those of {pairs.name} in {pairs.languages[0]}"
        )
    held_out = {text_key(pairs.source[row]) for row in np.flatnonzero(split > TRAIN).tolist()}
    rows = np.flatnonzero(other.split == TRAIN).tolist()
    rows, count = [row for row in rows if text_key(other.source[row]) not in held_out], len(rows)
    if not rows:
        raise UserError(f"{said}: no sentence is left that is not in validation or test of {pairs.name}")
    source = [other.source[row].lower() if pairs.lowercase else other.source[row] for row in rows]
    empty = [""] * len(rows)
    joined = replace(
        pairs,
        source=[*pairs.source, *source],
        target=[*pairs.target, *empty],
        split=np.concatenate([pairs.split, np.full(len(rows), TRAIN, np.int8)]),
        ids=np.concatenate([pairs.ids, other.ids[rows] + FURTHER_IDS]),
        groups=None if pairs.groups is None else [*pairs.groups, *empty],
    )
    return joined, len(rows), count - len(rows)


def known_text(pairs: Pairs, rows: Iterable[int], hidden: np.ndarray) -> Iterable[str]:
    """What a tokenizer may read of these pairs: sources, and targets that are there."""
    rows = list(rows)
    yield from (pairs.source[row] for row in rows)
    yield from (pairs.target[row] for row in rows if not hidden[row])


def unlabelled_sentences(root: str | Path | None = None, like: Pairs | None = None) -> Pairs:
    """The lines of a file in UTF-8 (gzipped or not), one sentence each, as `data.unlabelled=FILE` reads them; empty ones are left out.

    like: pairs whose source language they are in.
    """
    if root is None or like is None:
        raise UserError("unlabelled_sentences reads the file of data.unlabelled=FILE, beside pairs of sentences")
    lines = [" ".join(line.split()) for line in lines_of(Path(root))]
    rows = [row for row, line in enumerate(lines) if not blank(line)]
    count = len(rows)
    empty = {"empty": len(lines) - count} if count < len(lines) else {}
    return Pairs(
        Path(root).name,
        like.languages,
        [lines[row] for row in rows],
        [""] * count,
        np.full(count, TRAIN, np.int8),
        np.array(rows, np.int64),
        dropped=empty,
    )


unlabelled_sentences.reads = ("root",)
